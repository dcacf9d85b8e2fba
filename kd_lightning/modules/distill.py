"""Learn from a teacher's softened logits, from its inner layers and from labels."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.errors import UserError
from kd_lightning.losses import soft_target_loss
from kd_lightning.losses.check import check_arguments, check_scalar
from kd_lightning.modules.classifier import StepOutput
from kd_lightning.modules.feature_hooks import record_outputs
from kd_lightning.modules.sanity import check_feature_loss
from kd_lightning.modules.student import StudentModule

SoftLoss = Callable[[Tensor, Tensor, float], Any]
"""(student logits, teacher logits, temperature) to a scalar. `Any`, as the CLI refuses functions without annotations
for any other type."""


@dataclass
class FeatureMatch:
    """A layer of the student that is matched to a layer of the teacher.

    Args:
        student_layer: its name in the student, such as `features` or `layer3.0.conv2`.
        teacher_layer: its name in the teacher.
        loss: (student's output, teacher's output) to a scalar; its parameters are trained with the student.
    """

    student_layer: str
    teacher_layer: str
    loss: nn.Module


class DistillModule(StudentModule):
    """Train a student that matches a frozen teacher.

    Loss: hard_weight · cross-entropy + soft_weight · soft loss + feature_weight · sum of the feature losses.

    Student and teacher see the same tensor. The teacher's file is read when training starts. Testing and exporting a
    trained student do not need it: a test reports the agreement with the teacher if the file exists.

    Args:
        net: the student: images (B, C, H, W) to logits (B, classes).
        teacher: the teacher's network, built like `net`; its weights come from `teacher_ckpt`.
        teacher_ckpt: a checkpoint of this package, a run folder (its best checkpoint, else its last), or a state dict
            of the network as `.pt`, `.pth` or `.safetensors`; for an `EnsembleTeacher` a list, one for each member.
            None: the network is used as it was built; then its logits are cached in the user's cache folder.
        temperature: T of the soft loss, above 0.
        hard_weight: factor on the cross-entropy with the label, at least 0.
        soft_weight: factor on the soft loss, at least 0; 0 for a teacher without classes, whose features are matched.
        soft_loss: (student logits, teacher logits, temperature) to a scalar: a function, or an `nn.Module`, whose
            parameters are trained with the student.
        cache_teacher: compute the teacher's logits once for each image and view, and save them beside `teacher_ckpt`
            for later runs. By default where that is exact and takes at most 2 GiB. True: when a pair first occurs;
            `all`: before the first step, for all images and views, in large batches.
        shard_teacher: divide the teacher's weights among the processes of a run, for a teacher too large for one
            device; each block is assembled when it is called. Its logits are cached only with `cache_teacher: all`.
        teacher_classes: names of the teacher's outputs, in order, or a text file with one in each line; by default
            those that its checkpoint states. The data's classes are found among them by their names.
        features: layers of the student and the teacher that are matched, each pair by its own loss.
        feature_weight: factor on the sum of those losses, above 0 if there are features, else 0.
        **kwargs: optimizer, lr_scheduler, steps_at_once and compile, see `ClassifierModule`.

    Raises:
        UserError: a weight or temperature is out of range; the teacher's file is missing or unreadable, or of another
            architecture, other classes or other data; the soft loss takes other arguments; or layers of features do
            not exist or do not fit.

    Sources: Hinton, Vinyals and Dean 2015, section 2 (arXiv 1503.02531); for features, Romero et al. 2015,
    section 2.2 (FitNets, arXiv 1412.6550).
    """

    def __init__(
        self,
        net: nn.Module,
        teacher: nn.Module,
        teacher_ckpt: str | list[str] | None = None,
        temperature: float = 4.0,
        hard_weight: float = 0.1,
        soft_weight: float = 0.9,
        soft_loss: SoftLoss = soft_target_loss,
        cache_teacher: bool | Literal["all"] | None = None,
        shard_teacher: bool = False,
        teacher_classes: Sequence[str] | str | None = None,
        # The CLI builds arguments in this order: after `net`, so that a loss's weights do not change the student's.
        features: Sequence[FeatureMatch] = (),
        feature_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(net, teacher, teacher_ckpt, cache_teacher, shard_teacher, teacher_classes, **kwargs)
        check_weights(temperature, hard_weight=hard_weight, soft_weight=soft_weight, feature_weight=feature_weight)
        if features and not feature_weight:
            raise UserError("feature_weight: 0 found, a number above 0 expected where there are features")
        if feature_weight and not features:
            raise UserError(f"features: none found, at least one expected for a feature_weight of {feature_weight}")
        if features and self.compile_backend:
            raise UserError("compile: false expected with features, whose layers a compiled network hides")
        check_arguments(soft_loss)
        self.temperature = temperature
        self.hard_weight, self.soft_weight, self.feature_weight = hard_weight, soft_weight, feature_weight
        self.soft_loss = soft_loss
        self.needs_logits = soft_weight > 0
        self.features = tuple(features)
        self.feature_losses = nn.ModuleList(match.loss for match in features)
        if features:
            self.cache_obstacle = "features need the teacher's inner layers"

    def shared_step(self, batch: Batch) -> StepOutput:
        """Run student and teacher on a batch, and compute the losses and their weighted sum."""
        unmixed_logits = None if batch.unmixed is None else self(batch.unmixed).float()
        with self._student_outputs() as student_outputs, self._teacher_outputs() as teacher_outputs:
            logits = self(batch.image).float()
            teacher_logits = self.teacher_logits(batch)
            if not self._has_teacher:  # a test without the teacher's file
                return StepOutput(logits, losses={})
            feature_losses = [
                match.loss(student_outputs[match.student_layer], teacher_outputs[match.teacher_layer])
                for match in self.features
            ]
        hard_loss = self.hard_loss(logits if unmixed_logits is None else unmixed_logits, batch)
        loss = self.hard_weight * hard_loss
        losses = {"loss": loss, "hard_loss": hard_loss}
        if teacher_logits is not None:
            losses["soft_loss"] = self.soft_loss(logits, teacher_logits, self.temperature)
            check_scalar(self.soft_loss, losses["soft_loss"])
            losses["loss"] = losses["loss"] + self.soft_weight * losses["soft_loss"]
        if feature_losses:
            losses["feature_loss"] = torch.stack(feature_losses).sum()
            losses["loss"] = losses["loss"] + self.feature_weight * losses["feature_loss"]
        return StepOutput(logits, losses, teacher_logits)

    def check_networks(self, fitting: bool) -> None:
        """Check the outputs of student and teacher, and in training the shapes of their features."""
        if not (self.features and fitting and self.network_check.image_shape) or self.teacher.sharded:
            super().check_networks(fitting)
            return
        with self._student_outputs() as student_outputs, self._teacher_outputs() as teacher_outputs:
            super().check_networks(fitting)
            for match in self.features:
                student, teacher = student_outputs[match.student_layer], teacher_outputs[match.teacher_layer]
                check_feature_loss(match.student_layer, student, match.teacher_layer, teacher, match.loss)

    def _student_outputs(self) -> AbstractContextManager[dict[str, Tensor]]:
        return record_outputs(self.net, [match.student_layer for match in self.features], "features: student_layer")

    def _teacher_outputs(self) -> AbstractContextManager[dict[str, Tensor]]:
        layers = [match.teacher_layer for match in self.features]
        return record_outputs(self.teacher.network, layers, "features: teacher_layer")


def check_weights(temperature: float, **weights: float) -> None:
    """Raise `UserError` unless the temperature is above 0, no weight is below 0, and not all weights are 0."""
    if not temperature > 0:
        raise UserError(f"temperature: {temperature} found, a number above 0 expected")
    for name, weight in weights.items():
        if not weight >= 0:
            raise UserError(f"{name}: {weight} found, a number of at least 0 expected")
    if not any(weights.values()):
        raise UserError(f"{', '.join(weights)}: all 0 found, at least one above 0 expected")
