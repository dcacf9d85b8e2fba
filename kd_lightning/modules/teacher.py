"""Learning from labels alone."""

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.modules.classifier import ClassifierModule


class TeacherModule(ClassifierModule):
    """A network trained on labels alone: the teacher, and the baseline that a distilled student has to beat.

    Loss: cross-entropy with the label, mean over the batch, in nats.
    """

    def losses(self, batch: Batch, logits: Tensor) -> dict[str, Tensor]:
        """The cross-entropy, as `loss`."""
        return {"loss": F.cross_entropy(logits, batch.label)}
