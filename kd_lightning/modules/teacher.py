"""Learn from labels alone."""

import torch.nn.functional as F

from kd_lightning.batch import Batch
from kd_lightning.modules.classifier import ClassifierModule, StepOutput


class TeacherModule(ClassifierModule):
    """Train a network on labels alone: a teacher, or the baseline of a distilled student.

    Loss: cross-entropy with the label, mean over the batch, in nats.
    """

    def shared_step(self, batch: Batch) -> StepOutput:
        """Run the network and compute the cross-entropy."""
        logits = self(batch.image).float()
        return StepOutput(logits, {"loss": F.cross_entropy(logits, batch.label)})
