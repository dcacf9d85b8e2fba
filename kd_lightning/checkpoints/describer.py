"""Checkpoints that say what they are, in the run folder."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from kd_lightning.batch import data_of
from kd_lightning.checkpoints.description import KEY, describe
from kd_lightning.utils.run_folder import run_folder


class Describer(Callback):
    """Writes into checkpoints how their network is made and what it reads, so that one alone is enough to use it.

    Checkpoints without a folder of their own go to `checkpoints/` in the run folder, whichever loggers there are.

    Args:
        network: what makes the network, as a config's `class_path`, `init_args` and `dict_kwargs`; None where a config
            does not name it.
    """

    def __init__(self, network: dict[str, Any] | None) -> None:
        self.network = network

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send checkpoints to the run folder; Lightning sets up what writes them after all other callbacks."""
        folder = str(run_folder(trainer) / "checkpoints")  # on every process: they agree on it
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = folder

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the description; none where the data is not of our kind."""
        if description := describe(data_of(trainer)):
            checkpoint[KEY] = {"network": self.network, **description.plain()}
