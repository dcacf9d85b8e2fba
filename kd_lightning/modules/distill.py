"""Learning from a teacher's softened outputs and from labels."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.errors import UserError
from kd_lightning.losses import soft_target_loss
from kd_lightning.modules.classifier import ClassifierModule
from kd_lightning.teachers import FrozenTeacher, load_weights, resolve_checkpoint

SoftLoss = Callable[[Tensor, Tensor, float], Tensor]
"""(student logits, teacher logits, temperature) to a scalar."""


class DistillModule(ClassifierModule):
    """A student that matches a frozen teacher: hard_weight · cross-entropy + soft_weight · soft loss.

    Student and teacher see the same tensor. The teacher's file is read when training starts; testing and exporting
    a trained student do not need it (a test reports the agreement with the teacher where the file is there).

    Args:
        net: the student: images (B, C, H, W) to logits (B, classes).
        teacher: the teacher's network, built like `net`; its weights come from `teacher_ckpt`.
        teacher_ckpt: one of our checkpoints, a run folder (its best checkpoint, else its last), or a state dict of
            the network as `.pt`, `.pth` or `.safetensors`.
        temperature: T of the soft loss, above 0.
        hard_weight: factor on the cross-entropy with the label, at least 0.
        soft_weight: factor on the soft loss, at least 0.
        soft_loss: (student logits, teacher logits, temperature) to a scalar.
        **kwargs: optimizer and lr_scheduler, see `ClassifierModule`.

    Raises:
        UserError: a weight or temperature out of range, or a teacher that is missing, unreadable, of another
            architecture or of other classes.

    Source: Hinton, Vinyals and Dean 2015, section 2 (arXiv 1503.02531).
    """

    def __init__(
        self,
        net: nn.Module,
        teacher: nn.Module,
        teacher_ckpt: str,
        temperature: float = 4.0,
        hard_weight: float = 0.1,
        soft_weight: float = 0.9,
        soft_loss: SoftLoss = soft_target_loss,
        **kwargs: Any,
    ) -> None:
        super().__init__(net, **kwargs)
        if not temperature > 0:
            raise UserError(f"temperature: {temperature} found, a number above 0 expected")
        weights = {"hard_weight": hard_weight, "soft_weight": soft_weight}
        for name, weight in weights.items():
            if not weight >= 0:
                raise UserError(f"{name}: {weight} found, a number of at least 0 expected")
        if not any(weights.values()):
            raise UserError(f"{' and '.join(weights)}: all 0 found, at least one above 0 expected")
        self.teacher = FrozenTeacher(teacher)
        self.teacher_ckpt = teacher_ckpt
        self.temperature = temperature
        self.hard_weight, self.soft_weight = hard_weight, soft_weight
        self.soft_loss = soft_loss
        self._teacher_loaded = False

    def setup(self, stage: str) -> None:
        """Load the teacher and compare its classes, and the student's, with the data's."""
        super().setup(stage)
        if self._teacher_loaded:
            return
        if stage != "fit" and not Path(self.teacher_ckpt).exists():
            warnings.warn(
                f"teacher_ckpt: no {self.teacher_ckpt}; agreement with the teacher is not reported",
                stacklevel=2,
            )
            return
        load_weights(self.teacher.network, resolve_checkpoint(self.teacher_ckpt, "teacher_ckpt"), "teacher_ckpt")
        self.check_outputs(self.teacher.network, "teacher")
        self._teacher_loaded = True

    def teacher_logits(self, batch: Batch) -> Tensor | None:
        """What the teacher says of a batch: (B, classes); None where its file is gone."""
        return self.teacher(batch.image.to(self.dtype)).float() if self._teacher_loaded else None

    def losses(self, batch: Batch, logits: Tensor) -> dict[str, Tensor]:
        """`loss`, and its parts `hard_loss` and `soft_loss` before their weights."""
        hard = F.cross_entropy(logits, batch.label)
        soft = self.soft_loss(logits, self.teacher(batch.image.to(self.dtype)).float(), self.temperature)
        return {
            "loss": self.hard_weight * hard + self.soft_weight * soft,
            "hard_loss": hard,
            "soft_loss": soft,
        }
