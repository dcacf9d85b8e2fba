"""All pictures of a test."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from kd_lightning.batch import Batch
from kd_lightning.callbacks.plots.confusion import ConfusionMatrix
from kd_lightning.callbacks.plots.mistakes import WorstMistakes
from kd_lightning.callbacks.plots.reliability import ReliabilityDiagram


class Gallery(Callback):
    """Draws every picture of a test: one callback, for Lightning calls each of them six times a training step.

    See `ConfusionMatrix`, `ReliabilityDiagram` and `WorstMistakes`.
    """

    draws_pictures = True
    """Says to `ResultsWriter` that those of an earlier test will be replaced."""

    def __init__(self) -> None:
        self._pictures: tuple[Callback, ...] = (ConfusionMatrix(), ReliabilityDiagram(), WorstMistakes())

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start all."""
        for picture in self._pictures:
            picture.on_test_epoch_start(trainer, pl_module)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show all of them the batch."""
        for picture in self._pictures:
            picture.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw all."""
        for picture in self._pictures:
            picture.on_test_epoch_end(trainer, pl_module)
