"""This project's own training, by its own command, with everything on that a user has on."""

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

from benchmarks.turns import Turn
from kd_lightning.cli import lightning

EPOCHS = 3
"""Of a turn: the last is timed, when all is warm and the teacher's answers are known."""


class Clock(Callback):
    """Notes when each epoch begins, and when the last ends, checkpoints and logs written."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())


def one_epoch(config: str, folder: Path, *words: str) -> Turn:
    """The seconds of one epoch of a config, a file under `configs/` or any other, with further options."""

    def turn() -> float:
        times = _fit(config, mkdtemp(dir=folder), f"--trainer.max_epochs={EPOCHS}", *words)
        return times[-1] - times[-2]

    return turn


def whole_fit(config: str, folder: Path, make_teacher: Callable[[Path], Path], *words: str) -> Turn:
    """The seconds of all epochs of a config under `configs/`, with a teacher that was never asked before."""

    def turn() -> float:
        run = mkdtemp(dir=folder)
        times = _fit(config, run, f"--model.teacher_ckpt={make_teacher(Path(run))}", *words)
        return times[-1] - times[0]

    return turn


def untrained(network: nn.Module, folder: Path) -> Path:
    """A file with the weights of a network, to be a teacher's: what it says costs the same, trained or not."""
    file = folder / f"{type(network).__name__}.pt"
    torch.save(network.state_dict(), file)
    return file


def _fit(config: str, runs: str, *words: str) -> list[float]:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with redirect_stdout(io.StringIO()):  # takes the progress bar, which is on
        trained: Any = lightning.main(
            [
                "fit",
                f"--config={Path('configs', config)}",
                f"--threads={torch.get_num_threads()}",
                "--trainer.enable_progress_bar=true",
                "--trainer.enable_model_summary=false",
                "--trainer.callbacks=benchmarks.ours.Clock",
                f"--trainer.logger.save_dir={runs}",
                *words,
            ]
        )
    return next(callback.times for callback in trained.trainer.callbacks if isinstance(callback, Clock))
