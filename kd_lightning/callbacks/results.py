"""Writes a run's `results.json`."""

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
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from kd_lightning.batch import data_of
from kd_lightning.latency import BATCH_SIZES, measure_latency
from kd_lightning.results import PARTS, RESULTS_FILE, commit, machine, read_results, update_results, versions
from kd_lightning.run_folder import has_own_folder as has_own_folder
from kd_lightning.run_folder import run_folder as run_folder
from kd_lightning.waiting import line

MEBIBYTE = 2**20

PICTURES = ("confusion.png", "errors.png", "mistakes.png", "reliability.png")
"""What a test draws into the run folder."""


def leaves_files(trainer: Trainer) -> bool:
    """Whether a run writes into its folder: one of `fast_dev_run` tries the code alone."""
    return not getattr(trainer, "fast_dev_run", False)


def record(trainer: Trainer, run: Path, **parts: Any) -> None:
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
    events), so that nothing stale is read for new; resuming clears nothing. Where no logger makes a folder for the run,
    a new fit clears its figures alone, and no `results.json` but this project's; a `fast_dev_run` leaves and clears
    nothing.

    Args:
        label: a word that tells the run from others (default: a random one), kept in its checkpoints and, from the
            start of its fit, among its results. What goes on from a checkpoint keeps the checkpoint's.
    """

    def __init__(self, label: str | None = None) -> None:
        self.label = label or secrets.token_hex(8)
        self._start = 0.0
        self._before = 0.0
        self._images = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock on a clean folder."""
        self._start = time.perf_counter()
        run = run_folder(trainer)
        if not trainer.is_global_zero or not leaves_files(trainer):
            return
        if not trainer.ckpt_path:
            if "test" in read_results(run):
                rank_zero_info(f"{run}: the run that was trained and tested there is replaced")
            for file in _stale(run) if has_own_folder(trainer) else _own_results(run):
                file.unlink(missing_ok=True)
        record(trainer, run, label=self.label)

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far, for a run that goes on; and which run it is."""
        return {"seconds": self._seconds(), "label": self.label}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on, as the same run."""
        self._before = state_dict["seconds"]
        self.label = state_dict.get("label") or self.label

    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._start

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what training took."""
        run = run_folder(trainer)
        if trainer.is_global_zero:
            fit = {
                "seconds": round(self._seconds(), 2),
                "epochs": trainer.current_epoch,
                "steps": trainer.global_step,
                "seed": int(os.environ.get("PL_GLOBAL_SEED", "0")),
            }
            shown = {"data": {"train": _digest(trainer, train=True)}, "config": _config(run), "commit": commit()}
            record(trainer, run, fit=fit, command=sys.argv[1:], **shown, **_setting(trainer, pl_module))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how many images were measured: a part of the set, under `limit_test_batches`."""
        metrics: Any = pl_module.evaluation
        self._images = metrics.images()  # on every process: it adds up their counts

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the test measured, then how fast the network is."""
        run = run_folder(trainer)
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
        shown = {**read_results(run).get("data", {}), "test": _digest(trainer, train=False)}
        record(trainer, run, test=test, data=shown, **_setting(trainer, pl_module))
        with line("measuring latency"):
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


def _config(run: Path) -> Any:
    try:
        return yaml.safe_load((run / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):  # of a run that was started from Python, there is none
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
