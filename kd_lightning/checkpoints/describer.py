"""A callback that adds a description of network and data to checkpoints."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from kd_lightning.batch import data_of
from kd_lightning.checkpoints.description import KEY, describe
from kd_lightning.utils.run_folder import run_folder


class Describer(Callback):
    """Adds the network's config and the images it reads to each checkpoint, which can then be used without a config.

    It also sends checkpoints without a `dirpath` to `checkpoints/` in the run folder, whichever loggers there are.

    Args:
        network: the network's `class_path`, `init_args` and `dict_kwargs` as in a config; None if no config names it.
    """

    def __init__(self, network: dict[str, Any] | None = None) -> None:
        self.network = network

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the folder of checkpoints; Lightning sets up checkpoint callbacks after all others."""
        folder = str(run_folder(trainer) / "checkpoints")  # in all processes: see `run_folder`
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = folder

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the description, if the data module has what it takes."""
        if description := describe(data_of(trainer)):
            checkpoint[KEY] = {"network": self.network, **description.plain()}
