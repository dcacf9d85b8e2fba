"""Learn from labels alone."""

from kd_lightning.batch import UNLABELLED, Batch, data_of
from kd_lightning.errors import UserError
from kd_lightning.modules.classifier import ClassifierModule, StepOutput


class TeacherModule(ClassifierModule):
    """Train a network on labels alone: a teacher, or the baseline of a distilled student.

    Loss: cross-entropy with the label, mean over the batch, in nats; see `label_loss`.
    """

    def setup(self, stage: str) -> None:
        """Check the data; see `ClassifierModule`."""
        mix = getattr(data_of(self.trainer), "mix", None)
        if stage == "fit" and getattr(mix, "hard_loss", "mixed") == "unmixed":
            raise UserError("mix: hard_loss unmixed found, mixed expected: no other loss is on the mixed images")
        label = getattr(data_of(self.trainer), "train_label", None)
        if stage == "fit" and label is not None and (label == UNLABELLED).all():
            raise UserError("data: no labelled training image found, at least 1 expected to train on labels alone")
        super().setup(stage)

    def shared_step(self, batch: Batch) -> StepOutput:
        """Run the network and compute the cross-entropy."""
        logits = self(batch.image).float()
        return StepOutput(logits, {"loss": self.hard_loss(logits, batch)})
