"""Learn from a teacher's softened logits, from its inner layers and from labels."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kd_lightning.batch import Batch, data_of
from kd_lightning.errors import UserError
from kd_lightning.losses import soft_target_loss, standardised
from kd_lightning.losses.signature import LossCall, LossFunction
from kd_lightning.modules.classifier import StepOutput
from kd_lightning.modules.feature_hooks import record_outputs
from kd_lightning.modules.loss_terms import (
    FeatureMatch,
    LossTerm,
    Part,
    WeightedLoss,
    check_numbers,
    check_schedules,
    feature_term,
    layers_of,
    weighted_terms,
)
from kd_lightning.modules.student import StudentModule
from kd_lightning.schedules import Value, ValueSchedule, value_in_epoch
from kd_lightning.teachers import EnsembleTeacher


class DistillModule(StudentModule):
    """Train a student that matches a frozen teacher.

    Loss: hard_weight · cross-entropy + soft_weight · soft loss + feature_weight · sum of the feature losses + each of
    `losses` with its weight. Each part has its line in the logs.

    Student and teacher see the same tensor. The teacher's file is read when training starts. Testing and exporting a
    trained student do not need it: a test reports the agreement with the teacher if the file exists.

    Args:
        net: the student: images (B, C, H, W) to logits (B, classes).
        teacher: the teacher's network, built like `net`; its weights come from `teacher_ckpt`.
        teacher_ckpt: a checkpoint of this package, a run folder (its best checkpoint, else its last), or a state dict
            of the network as `.pt`, `.pth` or `.safetensors`; for an `EnsembleTeacher` a list, one for each member.
            None: the network is used as it was built; then its logits are cached in the user's cache folder.
        temperature: T of the soft loss, above 0; like each weight, a number or a schedule over epochs, which is logged.
        hard_weight: factor on the cross-entropy with the label, at least 0.
        soft_weight: factor on the soft loss, at least 0; 0 for a teacher without classes, whose features are matched.
        soft_loss: (student logits, teacher logits, temperature) to a scalar: a function, or an `nn.Module`, whose
            parameters are trained with the student. Further arguments are given by their names; see `LossCall`.
        standardise_logits: whether losses on logits compare them scaled to mean 0 and deviation 1 for each image; see
            `standardised`.
        cache_teacher: compute the teacher's logits, and the outputs of its layers that losses compare, once for each
            image and view, and save them beside `teacher_ckpt` for later runs. By default where that is exact and takes
            at most 2 GiB. True: when a pair first occurs; `all`: before the first step, for all images and views, in
            large batches.
        shard_teacher: divide the teacher's weights among the processes of a run, for a teacher too large for one
            device; each block is assembled when it is called. Its logits are cached only with `cache_teacher: all`.
        teacher_classes: names of the teacher's outputs, in order, or a text file with one in each line; by default
            those that its checkpoint states. The data's classes are found among them by their names.
        features: layers of the student and the teacher that are matched, each pair by its own loss.
        feature_weight: factor on the sum of those losses, above 0 if there are features, else 0.
        losses: further losses on logits or layers, each with its weight. One that asks for the position of images in
            the training set is computed in training alone.
        **kwargs: optimizer, lr_scheduler, steps_at_once and compile, see `ClassifierModule`.

    Raises:
        UserError: a weight or temperature is out of range; the teacher's file is missing or unreadable, or of another
            architecture, other classes or other data; a loss takes other arguments, or needs labels or positions that
            the data does not have; or layers do not exist or do not fit.

    Sources: Hinton, Vinyals and Dean 2015, section 2 (arXiv 1503.02531); for features, Romero et al. 2015,
    section 2.2 (FitNets, arXiv 1412.6550).
    """

    def __init__(
        self,
        net: nn.Module,
        teacher: nn.Module,
        teacher_ckpt: str | list[str] | None = None,
        temperature: Value = 4.0,
        hard_weight: Value = 0.1,
        soft_weight: Value = 0.9,
        soft_loss: LossFunction = soft_target_loss,
        standardise_logits: bool = False,
        cache_teacher: bool | Literal["all"] | None = None,
        shard_teacher: bool = False,
        teacher_classes: Sequence[str] | str | None = None,
        # The CLI builds arguments in this order: after `net`, so that a loss's weights do not change the student's.
        features: Sequence[FeatureMatch] = (),
        feature_weight: Value = 0.0,
        losses: Sequence[WeightedLoss] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(net, teacher, teacher_ckpt, cache_teacher, shard_teacher, teacher_classes, **kwargs)
        self.temperature = temperature
        self.hard_weight, self.soft_weight, self.feature_weight = hard_weight, soft_weight, feature_weight
        self.soft_loss = soft_loss
        self.standardise_logits = standardise_logits
        self.features = tuple(features)
        self.feature_losses = nn.ModuleList(it.loss for it in features if isinstance(it.loss, nn.Module))
        soft_term = LossTerm("soft_loss", [Part(LossCall(soft_loss), None, None)], soft_weight, temperature)
        further_terms = weighted_terms(losses, temperature)
        feature_terms = [feature_term(features, feature_weight, temperature)] if features else []
        self.terms = [soft_term, *feature_terms, *further_terms]
        modules = {term.name: each.loss for term, each in zip(further_terms, losses, strict=True)}
        self.losses = nn.ModuleDict({name: loss for name, loss in modules.items() if isinstance(loss, nn.Module)})
        pairs = zip(further_terms, losses, strict=True)
        own_temperatures = {term.name: it.temperature for term, it in pairs if it.temperature is not None}
        self.options: dict[str, Value] = {
            "temperature": temperature,
            "hard_weight": hard_weight,
            "soft_weight": soft_weight,
            "feature_weight": feature_weight,
            **{f"losses.{term.name}.weight": term.weight for term in further_terms},
            **{f"losses.{name}.temperature": value for name, value in own_temperatures.items()},
        }
        """Temperatures and weights by the names of their options; see `Value`."""
        self._check_options()
        self.needs_logits = any(term.needs_logits and term.weight != 0 for term in self.terms)
        student_layers, teacher_layers = layers_of(self.terms)
        self._student_layers, self.teacher_layers = student_layers, tuple(dict.fromkeys(teacher_layers))
        of_losses = any(term.has_layers for term in further_terms)
        self.layer_option = ", ".join([*["features"] * bool(features), *["losses"] * of_losses])

    def _check_options(self) -> None:
        """Check the numbers, and the options that belong together."""
        check_numbers(self.options)
        if self.features and not self.feature_weight:
            raise UserError("feature_weight: 0 found, a number above 0 expected where there are features")
        if self.feature_weight and not self.features:
            weight = self.feature_weight
            raise UserError(f"features: none found, at least one expected for a feature_weight of {weight}")
        if isinstance(network := self.teacher.network, EnsembleTeacher) and network.temperature is not None:
            for term in self.terms:
                if term.needs_logits and term.temperature != network.temperature:
                    raise UserError(
                        f"temperature: {term.temperature} found for {term.name}, {network.temperature} expected, at "
                        "which the ensemble averages probabilities"
                    )
        if self.compile_backend and any(term.has_layers for term in self.terms):
            raise UserError("compile: false expected with features, whose layers a compiled network hides")

    def setup(self, stage: str) -> None:
        """Check the schedules, and let the losses see the data, before the networks are loaded and checked."""
        if stage == "fit":
            check_schedules(self.trainer, self.options)
            for term in self.terms:
                term.prepare(data_of(self.trainer))
        super().setup(stage)

    def shared_step(self, batch: Batch) -> StepOutput:
        """Run student and teacher on a batch, and compute the losses and their weighted sum."""
        unmixed_logits = None if batch.unmixed is None else self(batch.unmixed).float()
        with self._student_outputs() as student_outputs:
            logits = self(batch.image).float()
            teacher_logits, teacher_outputs = self.teacher_outputs(batch)
            if not self._has_teacher:  # a test without the teacher's file
                return StepOutput(logits, losses={})
            hard_loss = self.hard_loss(logits if unmixed_logits is None else unmixed_logits, batch)
            loss = self._in_epoch(self.hard_weight) * hard_loss
            losses = {"loss": loss, "hard_loss": hard_loss}
            values = self._values(batch, logits, teacher_logits)
            for term in self.terms:
                if (term.needs_logits and teacher_logits is None) or (term.asks("index") and not self.training):
                    continue
                temperature = self._in_epoch(term.temperature)
                losses[term.name] = term.value(temperature, (student_outputs, teacher_outputs), values)
                losses["loss"] = losses["loss"] + self._in_epoch(term.weight) * losses[term.name]
        return StepOutput(logits, losses, teacher_logits)

    def _values(self, batch: Batch, logits: Tensor, teacher_logits: Tensor | None) -> dict[str, Any]:
        """Return what losses compare or ask for; of a mixed image, its class of most weight is the label."""
        label = batch.label if batch.target is None else batch.target.argmax(dim=-1)
        if self.standardise_logits:
            logits = standardised(logits)
            teacher_logits = None if teacher_logits is None else standardised(teacher_logits)
        return {"student_logits": logits, "teacher_logits": teacher_logits, "label": label, "index": batch.index}

    def _in_epoch(self, value: Value) -> float:
        return value_in_epoch(value, self._trainer)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means, and the values of schedules."""
        super().on_train_epoch_end()
        scheduled = {name: value for name, value in self.options.items() if isinstance(value, ValueSchedule)}
        names = {name: name.removeprefix("losses.").replace(".", "_") for name in scheduled}
        self.log_dict({f"train/{names[name]}": self._in_epoch(value) for name, value in scheduled.items()})

    def check_networks(self, fitting: bool) -> None:
        """Check the outputs of student and teacher, and in training the shapes of their features."""
        has_layers = any(term.has_layers for term in self.terms)
        if not (has_layers and fitting and self.network_check.image_shape) or self.teacher.sharded:
            super().check_networks(fitting)
            return
        with self._student_outputs() as student_outputs, self.recorded_layers() as teacher_outputs:
            super().check_networks(fitting)
            shapes = {name: teacher_outputs[name].shape for name in self.teacher_layers}
            self._layer_shapes = {name: shape[1:] for name, shape in shapes.items() if shape[:1] == (2,)}
            blank = torch.zeros(2, dtype=torch.long, device=self.device)
            logits = torch.zeros(2, self.network_check.classes or 2, device=self.device)
            values = {"student_logits": logits, "teacher_logits": logits, "label": blank, "index": blank}
            for term in self.terms:
                term.check((student_outputs, teacher_outputs), values)

    def _student_outputs(self) -> AbstractContextManager[dict[str, Tensor]]:
        return record_outputs(self.net, self._student_layers, f"{self.layer_option}: student_layer")
