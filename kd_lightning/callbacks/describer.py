"""Has every checkpoint say what it is."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from kd_lightning.batch import data_of
from kd_lightning.description import KEY, describe


class Describer(Callback):
    """Writes into checkpoints how their network is made and what it reads, so that one alone is enough to use it.

    Args:
        network: what makes the network, as a config's `class_path`, `init_args` and `dict_kwargs`; None where a config
            does not name it.
    """

    def __init__(self, network: dict[str, Any] | None) -> None:
        self.network = network

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the description; none where the data is not of our kind."""
        if description := describe(data_of(trainer)):
            checkpoint[KEY] = {"network": self.network, **description.plain()}
