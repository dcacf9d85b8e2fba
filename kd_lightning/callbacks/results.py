"""Writes a run's `results.json`."""

import logging
import os
import secrets
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from kd_lightning.batch import as_batch, class_names_of, data_of
from kd_lightning.callbacks.measured_on import measured_on, weights_of
from kd_lightning.errors import UserError
from kd_lightning.reports.results import (
    PARTS,
    RESULTS_FILE,
    TEST_PARTS,
    commit,
    config_digest,
    is_fingerprint,
    is_recipes,
    machine,
    read_results,
    update_results,
    versions,
    with_few_images,
)
from kd_lightning.utils.latency import BATCH_SIZES, measure_latency
from kd_lightning.utils.progress import status
from kd_lightning.utils.run_folder import has_own_folder as has_own_folder
from kd_lightning.utils.run_folder import run_folder as run_folder

log = logging.getLogger(__name__)

MEBIBYTE = 2**20

MOST_CLASSES = 1000
"""Above which the results hold neither their names nor their images."""

RESUME_WORDS = ("last", "hpc", "registry")
"""Lightning's own words for a checkpoint to go on from."""

PICTURES = ("confusion.png", "errors.png", "mistakes.png", "reliability.png")
"""What a test draws into the run folder."""


def leaves_files(trainer: Trainer) -> bool:
    """Whether a run writes into its folder: one of `fast_dev_run` tries the code alone."""
    return not getattr(trainer, "fast_dev_run", False)


def record(trainer: Trainer, run: Path, **parts: Any) -> None:
    """Set parts of a run's results; those of a test are collected until it ends, see `ResultsWriter`."""
    writers = (each for each in getattr(trainer, "callbacks", ()) if isinstance(each, ResultsWriter))
    writer = next(writers, None)
    if writer is not None and writer.collected is not None:
        writer.collected.update(parts)
    else:
        _write(trainer, run, **parts)


def _write(trainer: Trainer, run: Path, **parts: Any) -> None:
    """Set parts of a run's results, where it leaves files; a `results.json` that is not this project's stays."""
    found = set(read_results(run))
    theirs = not has_own_folder(trainer) and (run / RESULTS_FILE).exists() and not set() < found <= PARTS
    if leaves_files(trainer) and not theirs:
        update_results(run, **parts)


def size_in_bytes(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


class ResultsWriter(Callback):
    """Keeps the figures of fit and test, with what is needed to repeat them, in the run folder.

    A new fit clears what an earlier one left there (figures, pictures, predictions, exported files, best checkpoint,
    events), so that nothing stale is read for new; but it does not replace a run of `reproduce`. Resuming clears
    nothing, until a checkpoint of the longer training is written: then the figures of the shorter one go. Where no
    logger makes a folder for the run, a new fit clears its figures alone, and no `results.json` but this project's; a
    `fast_dev_run` leaves and clears nothing.

    All parts that a test writes are collected, and replace those of the test before at once, when it ends.

    Args:
        label: a word that tells the run from others (default: a random one), kept in its checkpoints and, from the
            start of its fit, among its results. What goes on from a checkpoint keeps the checkpoint's.
        overwrite: whether a new fit may replace a run of `reproduce`.

    Raises:
        UserError: a new fit would replace a run of `reproduce`.
    """

    collected: dict[str, Any] | None
    """Parts of the test that is running; None where none is."""

    def __init__(self, label: str | None = None, overwrite: bool = False) -> None:
        self.label = label or secrets.token_hex(8)
        self.overwrite = overwrite
        self.collected = None
        self._start = 0.0
        self._before = 0.0
        self._images = 0
        self._class_images: Tensor | None = None
        self._config: dict[str, Any] | None = None
        self._resumed: dict[str, Any] = {}
        self._earlier: list[dict[str, Any]] = []
        self._is_stale = False
        self._run = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the options of this training."""
        if stage == "fit":
            self._config = _config(trainer, run_folder(trainer))

    def check_place(self, run: Path, ckpt_path: Any) -> None:
        """Raise `UserError` if a fit would replace a run of `reproduce`; to go on with that run is no replacement."""
        goes_on = ckpt_path in RESUME_WORDS or (ckpt_path and run.resolve() in Path(ckpt_path).resolve().parents)
        if is_recipes(run) and not (is_fingerprint(self.label) or goes_on or self.overwrite):
            raise UserError(
                f"fit: {run} holds a run of `reproduce`, another folder expected (--trainer.logger.version NAME); "
                "--overwrite true replaces it"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock on a clean folder."""
        self.collected = None
        self._start = time.perf_counter()
        self._run = run = run_folder(trainer)
        if has_own_folder(trainer) and leaves_files(trainer):
            self.check_place(run, trainer.ckpt_path)
        self._note_earlier_options()
        if not trainer.is_global_zero or not leaves_files(trainer):
            return
        if not trainer.ckpt_path:
            if "test" in read_results(run):
                rank_zero_info(f"{run}: the run that was trained and tested there is replaced")
            for file in _stale(run) if has_own_folder(trainer) else _own_results(run):
                file.unlink(missing_ok=True)
        record(trainer, run, label=self.label)

    def _note_earlier_options(self) -> None:
        """Keep, of a training that is resumed with other options, with which ones it began."""
        before, now = self._resumed.get("config"), config_digest(self._config) if self._config else None
        if self._resumed and not before and (config := read_results(self._run).get("config")):
            before = config_digest(config)  # its checkpoint is from before this was kept
        self._earlier = [*self._resumed.get("earlier", [])]
        if before and now and before != now:
            self._earlier.append({"config": before, "steps": self._resumed["steps"]})
        self._is_stale = bool(self._resumed)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remove the figures of a training that was resumed: this checkpoint is of a longer one."""
        if trainer.is_global_zero and trainer.state.fn == "fit":
            self._remove_earlier_figures(trainer, self._run)

    def _remove_earlier_figures(self, trainer: Trainer, run: Path) -> None:
        if not self._is_stale or trainer.global_step == self._resumed["steps"]:
            return
        self._is_stale = False
        parts = ["fit", *TEST_PARTS]
        if self._earlier or read_results(run).get("fingerprint") != self.label:
            parts += ["settings", "fingerprint", "reproduced"]
        record(trainer, run, **dict.fromkeys(parts))

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far, for a run that goes on; which run it is, and the options that it was trained with."""
        config = config_digest(self._config) if self._config else self._resumed.get("config")
        return {"seconds": self._seconds(), "label": self.label, "config": config, "earlier": self._earlier}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on, as the same run."""
        self._before = state_dict["seconds"]
        self.label = state_dict.get("label") or self.label
        self._resumed = {**self._resumed, **state_dict}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note how far the training was that is resumed."""
        self._resumed = {"steps": checkpoint.get("global_step", 0)}

    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._start

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what training took."""
        run = run_folder(trainer)
        if trainer.is_global_zero:
            self._remove_earlier_figures(trainer, run)
            fit = {
                "seconds": round(self._seconds(), 2),
                "epochs": trainer.current_epoch,
                "steps": trainer.global_step,
                "seed": int(os.environ.get("PL_GLOBAL_SEED", "0")),
                **weights_of(pl_module),
                **({"earlier": self._earlier} if self._earlier else {}),
            }
            shown = {"data": {"train": _digest(trainer, train=True)}, "config": self._config, "commit": commit()}
            record(trainer, run, fit=fit, command=sys.argv[1:], **shown, **_setting(trainer, pl_module))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the parts of this test; where it draws no pictures, those of the test before go."""
        self.collected = {}
        self._class_images = None
        run = run_folder(trainer)  # on every process: they agree on it
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
        """Count the images of each class."""
        if not isinstance(outputs, Tensor):  # of a module of the user's
            return
        counts = torch.bincount(as_batch(batch).label, minlength=outputs.shape[-1])
        self._class_images = counts if self._class_images is None else self._class_images + counts

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how many images were measured: a part of the set, under `limit_test_batches`."""
        metrics: Any = pl_module.evaluation
        self._images = metrics.images()  # on every process: it adds up their counts
        if self._class_images is not None:
            self._class_images = trainer.strategy.reduce(self._class_images, reduce_op="sum")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the test measured, and on what; then how fast the network is."""
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
        class_images = None if self._class_images is None else self._class_images.tolist()
        names = class_names_of(trainer, len(class_images or []))
        if few := with_few_images(class_images or [], names):
            log.warning(f"test: {few}")
        parts = {
            "test": test,
            "measured_on": measured_on(trainer, pl_module, run, self._images, class_images or []),
            "class_images": class_images if len(names) <= MOST_CLASSES else None,
            "class_names": names if len(names) <= MOST_CLASSES else None,
            "data": {**read_results(run).get("data", {}), "test": _digest(trainer, train=False)},
        }
        record(trainer, run, **{**dict.fromkeys(TEST_PARTS), **parts, **collected}, **_setting(trainer, pl_module))
        with status("measuring latency"):
            record(trainer, run, latency=_latency(trainer, pl_module))


def _stale(run: Path) -> list[Path]:
    """What an earlier fit and test left in a run's own folder."""
    # The newest event file is this fit's own, opened a moment ago.
    events = sorted(run.glob("events.out.tfevents.*"), key=lambda file: file.stat().st_mtime)[:-1]
    said = [*run.glob("predictions*.csv"), *(run / "export").glob("model*")]  # by the network of before
    return [run / RESULTS_FILE, run / "checkpoints" / "best.ckpt", *(run / name for name in PICTURES), *events, *said]


def _own_results(run: Path) -> list[Path]:
    """An earlier fit's figures, told by its label, in a folder that is not the run's alone."""
    found = read_results(run)
    return [run / RESULTS_FILE] if isinstance(found.get("label"), str) and set(found) <= PARTS else []


def _digest(trainer: Trainer, train: bool) -> str:
    data = data_of(trainer)
    return (data.shown_digest(train) or data.fingerprint) if hasattr(data, "shown_digest") else ""


def _config(trainer: Trainer, run: Path) -> Any:
    """All options of this training, as plain types; of a run that was started from Python, its `config.yaml`'s."""
    for callback in getattr(trainer, "callbacks", ()):
        if isinstance(callback, SaveConfigCallback):
            return yaml.safe_load(callback.parser.dump(callback.config, skip_none=False))
    try:
        return yaml.safe_load((run / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _setting(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    network = module.net
    assert isinstance(network, nn.Module)
    on_gpu = module.device.type == "cuda"
    return {
        "network": {
            "name": type(network).__name__,
            "parameters": sum(p.numel() for p in network.parameters()),
            "mebibytes": size_in_bytes(network) / MEBIBYTE,
        },
        "versions": versions(),
        "machine": machine(),
        "device": torch.cuda.get_device_name(module.device) if on_gpu else module.device.type,
        "devices": trainer.world_size,
        "threads": torch.get_num_threads(),
    }


def _latency(trainer: Trainer, module: LightningModule) -> dict[str, float]:
    """Milliseconds by batch size, in the run's precision on its device; without what cannot be measured."""
    data = data_of(trainer)
    # Several processes load one machine, and parts of a sharded network wait for each other: no figure of either.
    if not hasattr(data, "image_shape") or trainer.world_size > 1:
        return {}
    figures: dict[str, float] = {}
    with trainer.precision_plugin.forward_context():
        for size in BATCH_SIZES:
            # Batch norm without running statistics cannot read one image; a device may not hold many.
            with suppress(ValueError, RuntimeError):
                net: Any = module.net
                memory_format: Any = module.memory_format
                milliseconds = measure_latency(net, data.image_shape, size, module.device, memory_format)
                figures[f"batch_{size}"] = round(milliseconds, 4)
    return figures
