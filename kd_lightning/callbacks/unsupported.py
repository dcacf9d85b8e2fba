"""Lightning's callbacks that a run from the command line cannot have, each with the reason."""

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import BackboneFinetuning, ModelPruning, StochasticWeightAveraging

from kd_lightning.errors import UserError


def check_callbacks(callbacks: Sequence[Callback], module: LightningModule, resumes: bool) -> None:
    """Refuse, before a training begins, the callbacks whose work would be lost.

    Args:
        callbacks: of the training.
        module: that is trained.
        resumes: whether it goes on from a checkpoint.

    Raises:
        UserError: one of them is not supported.
    """
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, StochasticWeightAveraging):
            raise UserError(
                f"trainer.callbacks: {name} found, WeightAveraging or EMAWeightAveraging expected: its averages come "
                "after the last validation and the last checkpoint, so that they would be neither tested nor exported"
            )
        if isinstance(callback, BackboneFinetuning) and not hasattr(module, "backbone"):
            lacking = f"{type(module).__name__} has no backbone"
            raise UserError(f"trainer.callbacks: {name} found, a BaseFinetuning of your own expected: {lacking}")
        if isinstance(callback, ModelPruning) and resumes:
            raise UserError(
                f"trainer.callbacks: {name} found, none expected with --ckpt_path: "
                "a checkpoint does not hold its masks; train anew"
            )
