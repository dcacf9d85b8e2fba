"""The callback that writes `results.json`."""

import logging
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from kd_lightning.batch import class_names_of, data_of
from kd_lightning.callbacks.curves import METRICS_FILE, Curves
from kd_lightning.callbacks.earlier_files import PICTURES, own_results, stale_files
from kd_lightning.callbacks.measured_on import measured_on, weights_of
from kd_lightning.callbacks.right_images import RightImages
from kd_lightning.callbacks.setting import latency, setting
from kd_lightning.errors import UserError
from kd_lightning.reports.results import (
    PARTS,
    RESULTS_FILE,
    TEST_PARTS,
    commit,
    config_digest,
    is_fingerprint,
    is_recipes,
    read_results,
    update_results,
    with_few_images,
)
from kd_lightning.utils.memory import PeakMemory
from kd_lightning.utils.progress import status
from kd_lightning.utils.run_folder import has_own_folder, run_folder

log = logging.getLogger(__name__)

MAX_CLASSES = 1000
"""Most classes whose names, numbers of images and figures are stored."""

RESUME_WORDS = ("last", "hpc", "registry")
"""Lightning's keywords for a checkpoint to resume from."""


def leaves_files(trainer: Trainer) -> bool:
    """Return whether a run writes files; one of `fast_dev_run` does not."""
    return not getattr(trainer, "fast_dev_run", False)


def writer_of(trainer: Trainer) -> "ResultsWriter | None":
    """Return the callback of a trainer that writes its results, if there is one."""
    callbacks = getattr(trainer, "callbacks", ())
    return next((callback for callback in callbacks if isinstance(callback, ResultsWriter)), None)


def record(trainer: Trainer, run: Path, **parts: Any) -> None:
    """Set parts of a run's results; during a test they are collected until its end."""
    writer = writer_of(trainer)
    if writer is not None and writer.collected is not None:
        writer.collected.update(parts)
    else:
        _write(trainer, run, **parts)


def _write(trainer: Trainer, run: Path, **parts: Any) -> None:
    """Set parts of a run's results, unless its `results.json` is not from this project."""
    found = set(read_results(run))
    is_users = not has_own_folder(trainer) and (run / RESULTS_FILE).exists() and not set() < found <= PARTS
    if leaves_files(trainer) and not is_users:
        update_results(run, **parts)


class ResultsWriter(Callback):
    """Writes figures of fit and test, and what it takes to repeat them, to the run folder.

    `results.json` has the figures; `metrics.csv` has a row of all logged metrics for each epoch, whatever the loggers.

    A new fit removes what an earlier one left in the run folder (figures, pictures, predictions, exported files, best
    checkpoint, events), but it does not replace a run of `reproduce`. A resumed fit removes the earlier figures when it
    writes its first checkpoint. Without a logger, a new fit removes the figures alone, and no `results.json` of others;
    a `fast_dev_run` writes and removes nothing.

    All parts of a test are collected, and replace those of the earlier test at its end.

    Args:
        label: identifies the run in its checkpoints and results; random by default. A resumed run keeps its label.
        overwrite: whether a new fit may replace a run of `reproduce`.

    Raises:
        UserError: a new fit would replace a run of `reproduce`.
    """

    collected: dict[str, Any] | None
    """Parts of the running test; None if none is running."""

    def __init__(self, label: str | None = None, overwrite: bool = False) -> None:
        self.label = label or secrets.token_hex(8)
        self.overwrite = overwrite
        self.collected = None
        self._start = 0.0
        self._before = 0.0
        self._memory = PeakMemory()
        self._images = 0
        self._class_images: list[int] = []
        self._class_figures: dict[str, list[float]] = {}
        self._right = RightImages()
        self._config: dict[str, Any] | None = None
        self._resumed: dict[str, Any] = {}
        self._earlier: list[dict[str, Any]] = []
        self._is_stale = False
        self._run = Path()
        self._curves = Curves()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the options of this training."""
        if stage == "fit":
            self._config = _config(trainer, run_folder(trainer))

    def check_place(self, run: Path, ckpt_path: Any) -> None:
        """Raise `UserError` if a fit, other than a resumed one, would replace a run of `reproduce`."""
        resumes = ckpt_path in RESUME_WORDS or (ckpt_path and run.resolve() in Path(ckpt_path).resolve().parents)
        if is_recipes(run) and not (is_fingerprint(self.label) or resumes or self.overwrite):
            raise UserError(
                f"fit: {run} holds a run of `reproduce`, another folder expected (--trainer.logger.version NAME); "
                "--overwrite true replaces it"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove files of an earlier fit, and start to measure time and memory."""
        self.collected = None
        self._start = time.perf_counter()
        self._memory.start(trainer.strategy.root_device)
        self._run = run = run_folder(trainer)
        if has_own_folder(trainer) and leaves_files(trainer):
            self.check_place(run, trainer.ckpt_path)
        self._note_earlier_options()
        may_write = has_own_folder(trainer) or not (run / METRICS_FILE).exists() or bool(own_results(run))
        self._curves.start(trainer, run, self._resumed["steps"] if trainer.ckpt_path and self._resumed else None)
        if not may_write or not leaves_files(trainer):
            self._curves.stop()
        if not trainer.is_global_zero or not leaves_files(trainer):
            return
        if not trainer.ckpt_path:
            if "test" in read_results(run):
                rank_zero_info(f"{run}: the run that was trained and tested there is replaced")
            for file in stale_files(run) if has_own_folder(trainer) else own_results(run):
                file.unlink(missing_ok=True)
        record(trainer, run, label=self.label, loggers=_runs_of_services(trainer))

    def _note_earlier_options(self) -> None:
        """Record the options of a training that is resumed with other ones."""
        before, now = self._resumed.get("config"), config_digest(self._config) if self._config else None
        if self._resumed and not before and (config := read_results(self._run).get("config")):
            before = config_digest(config)  # a checkpoint of an earlier version
        self._earlier = [*self._resumed.get("earlier", [])]
        if before and now and before != now:
            self._earlier.append({"config": before, "steps": self._resumed["steps"]})
        self._is_stale = bool(self._resumed)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the metrics of the previous epoch."""
        self._curves.write(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the epoch has a validation."""
        if not trainer.sanity_checking:
            self._curves.note_validation()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the epoch has ended."""
        self._curves.note_epoch(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the metrics of the last epoch."""
        self._curves.write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the metrics of the epoch, and remove the figures of a resumed training, which this one makes longer."""
        self._curves.write(trainer, finished=False)  # before the checkpoint, which a resumed training continues
        if trainer.is_global_zero and trainer.state.fn == "fit":
            self._remove_earlier_figures(trainer, self._run)

    def _remove_earlier_figures(self, trainer: Trainer, run: Path) -> None:
        if not self._is_stale or trainer.global_step == self._resumed["steps"]:
            return
        self._is_stale = False
        parts = ["fit", "val", *TEST_PARTS]
        if self._earlier or read_results(run).get("fingerprint") != self.label:
            parts += ["settings", "fingerprint", "reproduced"]
        record(trainer, run, **dict.fromkeys(parts))

    def state_dict(self) -> dict[str, Any]:
        """Return seconds and peak memory so far, label and options, for a resumed run."""
        config = config_digest(self._config) if self._config else self._resumed.get("config")
        measured = {"seconds": self._seconds(), "peak_mebibytes": self._memory.peak()}
        return {**measured, "label": self.label, "config": config, "earlier": self._earlier}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore seconds, peak memory, label and options."""
        self._before, self._memory.before = state_dict["seconds"], state_dict.get("peak_mebibytes")
        self.label = state_dict.get("label") or self.label
        self._resumed = {**self._resumed, **state_dict}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read the step of the resumed training."""
        self._resumed = {"steps": checkpoint.get("global_step", 0)}

    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._start

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of training."""
        run = run_folder(trainer)
        if trainer.is_global_zero:
            self._remove_earlier_figures(trainer, run)
            fit = {
                "seconds": round(self._seconds(), 2),
                "peak_mebibytes": self._memory.peak(),
                "epochs": trainer.current_epoch,
                "steps": trainer.global_step,
                "seed": int(os.environ.get("PL_GLOBAL_SEED", "0")),
                **weights_of(pl_module),
                **({"earlier": self._earlier} if self._earlier else {}),
            }
            shown = {"data": {"train": _digest(trainer, train=True)}, "config": self._config, "commit": commit()}
            record(trainer, run, fit=fit, command=sys.argv[1:], **shown, **setting(trainer, pl_module))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to collect the parts of this test; remove pictures of an earlier test if this one draws none."""
        self.collected, self._right = {}, RightImages()
        run = run_folder(trainer)  # in all processes: see `run_folder`
        draws = any(getattr(callback, "draws_pictures", False) for callback in getattr(trainer, "callbacks", ()))
        if not draws and trainer.is_global_zero and leaves_files(trainer) and has_own_folder(trainer):
            for name in PICTURES:
                (run / name).unlink(missing_ok=True)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note which images are classified correctly."""
        self._right.update(outputs, batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the counts and figures of each class, and which images are right, of all processes."""
        metrics: Any = pl_module.evaluation
        self._images = metrics.images()  # in all processes: it adds their counts
        self._right.gather(trainer, pl_module)
        self._class_images = metrics.classes.total()[0].tolist()
        figures = metrics.classes.figures()
        self._class_figures = {name: [round(x, 6) for x in values.tolist()] for name, values in figures.items()}

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of the test, then measure latency."""
        run = run_folder(trainer)
        collected, self.collected = self.collected or {}, None
        if not trainer.is_global_zero or not leaves_files(trainer):
            return
        test: dict[str, Any] = {
            name.removeprefix("test/"): round(float(value), 6)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("test/")
        }
        test["errors"] = round(test["errors"])
        test["images"] = self._images
        test["right"] = test["images"] - test["errors"]
        class_images = self._class_images
        names = class_names_of(trainer, len(class_images))
        if few := with_few_images(class_images, names):
            log.warning(f"test: {few}")
        by_class = {"class_images": class_images, "class_figures": self._class_figures, "class_names": names}
        measured = measured_on(trainer, pl_module, run, self._images, class_images)
        parts = {
            "test": test,
            "measured_on": measured,
            "right_images": self._right.packed(measured["of"]),
            **(by_class if len(names) <= MAX_CLASSES else {}),
            "data": {**read_results(run).get("data", {}), "test": _digest(trainer, train=False)},
        }
        record(trainer, run, **{**dict.fromkeys(TEST_PARTS), **parts, **collected}, **setting(trainer, pl_module))
        with status("measuring latency"):
            record(trainer, run, latency=latency(trainer, pl_module))


def _runs_of_services(trainer: Trainer) -> dict[str, str] | None:
    """Return the ids of the runs of Weights & Biases and MLflow, by class of logger; None without them."""
    ids: dict[str, str] = {}
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger | MLFlowLogger):
            _ = logger.experiment  # which begins the run
            ids[type(logger).__name__] = str(logger.version)
    return ids or None


def _digest(trainer: Trainer, train: bool) -> str:
    data = data_of(trainer)
    return (data.input_digest(train) or data.fingerprint) if hasattr(data, "input_digest") else ""


def _config(trainer: Trainer, run: Path) -> Any:
    """Return the options of this training as plain values; from Python, those in `config.yaml`."""
    for callback in getattr(trainer, "callbacks", ()):
        if isinstance(callback, SaveConfigCallback):
            return yaml.safe_load(callback.parser.dump(callback.config, skip_none=False))
    try:
        return yaml.safe_load((run / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
