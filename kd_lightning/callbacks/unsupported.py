"""Lightning's callbacks that a training from the command line refuses, each with the reason."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)

from kd_lightning.callbacks.best_checkpoint import BestCheckpoint
from kd_lightning.callbacks.last_checkpoint import LastCheckpoint
from kd_lightning.errors import UserError


def check_callbacks(callbacks: Sequence[Callback], module: LightningModule, data: Any, resumes: bool) -> None:
    """Refuse callbacks that would have no effect or overwrite the files of others, before a training begins.

    Args:
        callbacks: the callbacks of the training.
        module: the module to train.
        data: its data module.
        resumes: whether the training resumes from a checkpoint.

    Raises:
        UserError: one of the callbacks is not supported.
    """
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, StochasticWeightAveraging):
            raise UserError(
                f"trainer.callbacks: {name} found, WeightAveraging or EMAWeightAveraging expected: its averages come "
                "after the last validation and the last checkpoint, so that they would be neither tested nor exported"
            )
        if isinstance(callback, LearningRateFinder):
            names = (callback._attr_name, "lr", "learning_rate")
            if not any(attribute and hasattr(module, attribute) for attribute in names):
                raise UserError(
                    "trainer.callbacks: LearningRateFinder found, which sets the attribute `lr` of a module, and "
                    f"{type(module).__name__} has none; compare rates with --model.optimizer.lr"
                )
        if isinstance(callback, BatchSizeFinder) and hasattr(data, "check_resumable"):
            raise UserError(
                f"trainer.callbacks: {name} found, none expected: its trials step the schedule of the training that "
                "they precede, and its place in the epoch is counted in batches of one size; try sizes with "
                "--data.batch_size N --trainer.max_steps 20"
            )
        if isinstance(callback, BackboneFinetuning) and not hasattr(module, "backbone"):
            lacking = f"{type(module).__name__} has no backbone"
            raise UserError(f"trainer.callbacks: {name} found, a BaseFinetuning of your own expected: {lacking}")
        if isinstance(callback, ModelPruning) and resumes:
            raise UserError(
                f"trainer.callbacks: {name} found, none expected with --ckpt_path: "
                "a checkpoint does not hold its masks; train anew"
            )
        if isinstance(callback, BestCheckpoint | LastCheckpoint):
            _check_file_is_own(callback, callbacks)


def _check_file_is_own(default: ModelCheckpoint, callbacks: Sequence[Callback]) -> None:
    """Refuse another checkpoint of the same file but another metric: the two would overwrite each other."""
    for other in callbacks:
        if not isinstance(other, ModelCheckpoint) or (other.filename, other.dirpath) != (default.filename, None):
            continue
        if (other.monitor, other.mode) != (default.monitor, default.mode):
            name = type(default).__name__
            raise UserError(
                f"trainer.callbacks: {type(other).__name__} with filename {other.filename} found, the file of {name}; "
                f"another filename expected, or --disable_callbacks '[{name}]'"
            )
