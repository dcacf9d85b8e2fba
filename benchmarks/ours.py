"""Train with this project's command, with logger, checkpoints and progress bar on, as users do."""

import io
import logging
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from benchmarks.measure import Contender
from kd_lightning.cli import lightning

EPOCHS = 3
"""Epochs of a run. The last is timed, when caches are warm and the teacher's logits are cached."""


class EpochTimer(Callback):
    """Record when each epoch starts, and when training ends with checkpoints and logs written."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the time."""
        self.times.append(time.perf_counter())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the time."""
        self.times.append(time.perf_counter())


def one_epoch(config: str, folder: Path, *words: str) -> Contender:
    """Make a contender that returns the seconds of one epoch of a config, below `configs/` or absolute."""

    def run() -> float:
        times = _fit(config, mkdtemp(dir=folder), f"--trainer.max_epochs={EPOCHS}", *words)
        return times[-1] - times[-2]

    return run


def whole_fit(config: str, folder: Path, make_teacher: Callable[[Path], Path], *words: str) -> Contender:
    """Make a contender that returns the seconds of all epochs of a config, with an empty logit cache."""

    def run() -> float:
        run = mkdtemp(dir=folder)
        times = _fit(config, run, f"--model.teacher_ckpt={make_teacher(Path(run))}", *words)
        return times[-1] - times[0]

    return run


def save_untrained(network: nn.Module, folder: Path) -> Path:
    """Save a network's weights as a teacher's file: its forward pass costs the same, trained or not."""
    file = folder / f"{type(network).__name__}.pt"
    torch.save(network.state_dict(), file)
    return file


def _fit(config: str, runs: str, *words: str) -> list[float]:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with redirect_stdout(io.StringIO()):  # swallows the progress bar
        trained: Any = lightning.main(
            [
                "fit",
                f"--config={Path('configs', config)}",
                f"--threads={torch.get_num_threads()}",
                "--trainer.enable_progress_bar=true",
                "--trainer.enable_model_summary=false",
                "--trainer.callbacks=benchmarks.ours.EpochTimer",
                f"--trainer.logger.save_dir={runs}",
                *words,
            ]
        )
    return next(callback.times for callback in trained.trainer.callbacks if isinstance(callback, EpochTimer))
