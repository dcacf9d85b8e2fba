"""All plots of a test in one callback."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from kd_lightning.batch import Batch
from kd_lightning.callbacks.plots.confusion import ConfusionMatrix
from kd_lightning.callbacks.plots.mistakes import WorstMistakes
from kd_lightning.callbacks.plots.reliability import ReliabilityDiagram

PLOTS: tuple[type[Callback], ...] = (ConfusionMatrix, ReliabilityDiagram, WorstMistakes)


class Gallery(Callback):
    """Draws all plots of a test.

    One callback costs less than three: Lightning calls six hooks of each callback in every training step.

    Args:
        plots: classes of the callbacks that draw.
    """

    draws_pictures = True
    """Tells `ResultsWriter` to leave the plots of the previous test, which are replaced."""

    def __init__(self, plots: Sequence[type[Callback]] = PLOTS) -> None:
        self._plots = [plot() for plot in plots]

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset all plots."""
        for plot in self._plots:
            plot.on_test_epoch_start(trainer, pl_module)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update all plots with a batch."""
        for plot in self._plots:
            plot.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw all plots."""
        for plot in self._plots:
            plot.on_test_epoch_end(trainer, pl_module)
