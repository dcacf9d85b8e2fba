"""The checkpoint of the best epoch, which tests and exports read."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from kd_lightning.errors import UserError


class BestCheckpoint(ModelCheckpoint):
    """Saves `best.ckpt` at the epoch with the highest validation accuracy; without validation images, nothing.

    Args:
        monitor: the metric that decides which epoch is the best.
        mode: `max` if a higher value is better, `min` if a lower one is.
    """

    def __init__(self, monitor: str = "val/accuracy", mode: str = "max") -> None:
        super().__init__(filename="best", monitor=monitor, mode=mode, enable_version_counter=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the checkpoint if it is due.

        Without validation, Lightning would never write another checkpoint whose metric is not logged, and not say so.

        Raises:
            UserError: there is no validation, and another checkpoint monitors a metric that training does not log.
        """
        super().on_train_epoch_end(trainer, pl_module)
        others = [other for other in trainer.checkpoint_callbacks if isinstance(other, ModelCheckpoint)]
        logged = trainer.callback_metrics
        for other in others if not sum(trainer.num_val_batches) else ():
            if other is not self and other.monitor and other.monitor not in logged:
                raise UserError(
                    f"callbacks: {type(other).__name__} monitors {other.monitor}, which is not logged; one of "
                    f"{', '.join(sorted(logged))} expected (val/… takes validation images)"
                )
