"""The terms of a distillation loss: losses on logits and on layers, each with its weight."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from kd_lightning.batch import UNLABELLED
from kd_lightning.errors import UserError, one_line
from kd_lightning.losses.signature import LossCall, LossFunction, loss_name
from kd_lightning.schedules import Value, ValueSchedule, epochs_of

Layers = str | Sequence[str]
"""The name of a layer, or of several."""

RESERVED = ("loss", "hard_loss", "soft_loss", "feature_loss", "accuracy")
"""Log lines of every module."""


@dataclass
class FeatureMatch:
    """A layer of the student that is matched to a layer of the teacher.

    Args:
        student_layer: its name in the student, such as `features` or `layer3.0.conv2`; or a list of several.
        teacher_layer: its name in the teacher; or a list.
        loss: (student's output, teacher's output) to a scalar; its parameters are trained with the student. It gets
            lists of outputs where several layers are named, and further arguments by their names; see `LossCall`.
    """

    student_layer: Layers
    teacher_layer: Layers
    loss: LossFunction


@dataclass
class WeightedLoss:
    """A loss with its weight.

    Args:
        loss: of logits, (student logits, teacher logits, temperature) to a scalar, or of layers, (student's output,
            teacher's output) to a scalar; a function or an `nn.Module`, whose parameters are trained with the student.
            Further arguments are given by their names; see `LossCall`.
        weight: factor on the loss, at least 0.
        temperature: T of this loss, above 0; by default the module's.
        student_layer: for a loss of layers, the name of a layer of the student, or of several.
        teacher_layer: the same in the teacher.
        name: of its line in the logs; by default from the loss's name: `rkd_angle_loss` for `RKDAngleLoss`.
    """

    loss: LossFunction
    weight: Value = 1.0
    temperature: Value | None = None
    student_layer: Layers | None = None
    teacher_layer: Layers | None = None
    name: str | None = None


class Part(NamedTuple):
    """A loss, and the layers that it compares; none for a loss on logits."""

    call: LossCall
    student_layer: Layers | None
    teacher_layer: Layers | None


class LossTerm:
    """A line of the logs: the sum of some losses, with one weight and one temperature.

    Args:
        name: of the line.
        parts: the losses.
        weight: factor on their sum.
        temperature: of all of them.
    """

    def __init__(self, name: str, parts: Sequence[Part], weight: Value, temperature: Value) -> None:
        self.name, self.parts, self.weight, self.temperature = name, tuple(parts), weight, temperature

    @property
    def has_layers(self) -> bool:
        """Whether the losses compare outputs of layers."""
        return self.parts[0].student_layer is not None

    @property
    def needs_logits(self) -> bool:
        """Whether the teacher's logits are compared."""
        return not self.has_layers or self.asks("teacher_logits")

    def asks(self, name: str) -> bool:
        """Return whether a loss asks for an argument."""
        return any(part.call.asks(name) for part in self.parts)

    def value(
        self,
        temperature: float,
        outputs: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
        values: dict[str, Any],
    ) -> Tensor:
        """Compute the sum of the losses, a scalar.

        Args:
            temperature: T of this epoch.
            outputs: of the student's and of the teacher's layers, by name.
            values: what losses may ask for; see `LossCall`.
        """
        losses = []
        for call, student_layer, teacher_layer in self.parts:
            if student_layer is None or teacher_layer is None:
                compared = values["student_logits"], values["teacher_logits"]
            else:
                compared = _outputs_of(student_layer, outputs[0]), _outputs_of(teacher_layer, outputs[1])
            losses.append(call(*compared, temperature, **values))
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def prepare(self, data: Any) -> None:
        """Compare what the losses ask for with the data of a training, and let those with a `prepare` see it.

        Raises:
            UserError: a label, or a position in the training set, that the data does not have.
        """
        for call in (part.call for part in self.parts):
            where = f"{call.option}: {call.name}"
            mix, label = getattr(data, "mix", None), getattr(data, "train_label", None)
            if call.asks("label") and label is not None and bool((label == UNLABELLED).any()):
                raise UserError(f"{where} needs labels, and some training images are unlabelled; another loss expected")
            if call.asks("label") and mix is not None and mix.hard_loss == "unmixed":
                raise UserError(f"{where} needs the labels of mixed images; hard_loss: mixed expected for the mix")
            if call.asks("index") and (mix is not None or not hasattr(data, "train_positions")):
                found = type(mix).__name__ + " images" if mix else "plain loaders"
                raise UserError(f"{where} needs each image's position in the training set, which {found} do not have")
            if hasattr(call.loss, "prepare"):
                call.loss.prepare(data)

    @torch.no_grad()
    def check(self, outputs: tuple[Mapping[str, Tensor], Mapping[str, Tensor]], values: dict[str, Any]) -> None:
        """Compute the losses of layers on the outputs for blank images.

        Raises:
            UserError: the shapes do not fit.
        """
        for call, student_layer, teacher_layer in self.parts:
            if student_layer is None or teacher_layer is None:
                continue
            student, teacher = _outputs_of(student_layer, outputs[0]), _outputs_of(teacher_layer, outputs[1])
            loss: Any = deepcopy(call.loss)  # blank images must not change the loss's own state
            if isinstance(loss, nn.Module):
                loss.eval()
            try:
                LossCall(loss, call.option, of_layers=True)(student, teacher, 1.0, **values)
            except (ValueError, RuntimeError) as error:  # of our losses, and of torch's layers
                raise UserError(
                    f"{call.option}: student_layer {_listed(student_layer)} returns {_shapes(student)} and "
                    f"teacher_layer {_listed(teacher_layer)} returns {_shapes(teacher)}, which {call.name} does not "
                    f"take ({one_line(error)})"
                ) from error


def feature_term(features: Sequence[FeatureMatch], weight: Value, temperature: Value) -> LossTerm:
    """Return the term of `features`: the sum of their losses."""
    parts = [
        Part(LossCall(match.loss, "features", of_layers=True), match.student_layer, match.teacher_layer)
        for match in features
    ]
    return LossTerm("feature_loss", parts, weight, temperature)


def weighted_terms(losses: Sequence[WeightedLoss], temperature: Value) -> list[LossTerm]:
    """Return the terms of `losses`, each with its line in the logs.

    Raises:
        UserError: a layer of one network alone, or a name that is taken.
    """
    terms: list[LossTerm] = []
    for each in losses:
        names = [*RESERVED, *(term.name for term in terms)]
        name = each.name or _free(_snake_case(loss_name(each.loss)), names)
        if not re.fullmatch(r"\w+", name) or name in names:
            raise UserError(
                f"losses: name {name} found, letters, digits and _ expected, and none of {', '.join(names)}"
            )
        layers = {"student_layer": each.student_layer, "teacher_layer": each.teacher_layer}
        lacking = [option for option, named in layers.items() if named is None or not _as_list(named)]
        if len(lacking) == 1 or (lacking and any(named is not None for named in layers.values())):
            raise UserError(f"losses: {name} has no {lacking[0]}, a layer of each network expected, or of neither")
        call = LossCall(each.loss, "losses", of_layers=not lacking)
        own_temperature = temperature if each.temperature is None else each.temperature
        terms.append(LossTerm(name, [Part(call, **layers)], each.weight, own_temperature))
    return terms


def layers_of(terms: Sequence[LossTerm]) -> tuple[list[str], list[str]]:
    """Return the names of all layers of the student and of the teacher that the terms compare."""
    parts = [part for term in terms if term.has_layers for part in term.parts]
    student = [name for part in parts for name in _as_list(part.student_layer)]
    return student, [name for part in parts for name in _as_list(part.teacher_layer)]


def check_numbers(options: Mapping[str, Value]) -> None:
    """Check temperatures and weights, by the names of their options; schedules are left to `check_schedules`.

    Raises:
        UserError: a temperature is not above 0, a weight is below 0, or all weights are 0.
    """
    for name, value in options.items():
        if not isinstance(value, ValueSchedule):
            _check_number(name, name, value)
    weights = {name: value for name, value in options.items() if not _is_temperature(name)}
    if not any(weights.values()):
        raise UserError(f"{', '.join(weights)}: all 0 found, at least one above 0 expected")


def check_schedules(trainer: Trainer, options: Mapping[str, Value]) -> None:
    """Check the values of schedules in all epochs of a run.

    Raises:
        UserError: a temperature is not above 0, a weight is below 0, or a schedule needs the run's length.
    """
    epochs = epochs_of(trainer)
    for name, value in options.items():
        if not isinstance(value, ValueSchedule):
            continue
        for epoch in range(epochs or 1):
            try:
                number = value.at(epoch, epochs)
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
            _check_number(f"{name} in epoch {epoch}", name, number)


def _check_number(place: str, name: str, number: float) -> None:
    if _is_temperature(name) and not number > 0:
        raise UserError(f"{place}: {number} found, a number above 0 expected")
    if not number >= 0:
        raise UserError(f"{place}: {number} found, a number of at least 0 expected")


def _is_temperature(name: str) -> bool:
    return name.endswith("temperature")


def _outputs_of(layers: Layers, outputs: Mapping[str, Tensor]) -> Tensor | list[Tensor]:
    return outputs[layers] if isinstance(layers, str) else [outputs[name] for name in layers]


def _as_list(layers: Layers | None) -> list[str]:
    return [layers] if isinstance(layers, str) else list(layers or ())


def _listed(layers: Layers) -> str:
    return ", ".join(_as_list(layers))


def _shapes(outputs: Tensor | list[Tensor]) -> str:
    return ", ".join("x".join(map(str, it.shape)) for it in (outputs if isinstance(outputs, list) else [outputs]))


def _snake_case(name: str) -> str:
    """Return a class's name in lower case with underscores: `RKDAngleLoss` as `rkd_angle_loss`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _free(name: str, taken: Sequence[str]) -> str:
    numbered = [name, *(f"{name}_{number}" for number in range(2, len(taken) + 2))]
    return next(it for it in numbered if it not in taken)
