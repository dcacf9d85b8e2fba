"""The checkpoint that a trained network is taken from."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from kd_lightning.errors import UserError


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`: of the epoch with the highest accuracy on validation images, where there are some.

    Without validation images, a checkpoint of the user's that monitors a name that is never logged would never be
    written; Lightning itself notices that only after a validation.
    """

    def __init__(self) -> None:
        super().__init__(filename="best", monitor="val/accuracy", mode="max", enable_version_counter=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where it is due.

        Raises:
            UserError: there is no validation, and another checkpoint monitors a name that training does not log.
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
