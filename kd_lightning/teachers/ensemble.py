"""Combine several trained networks into one teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.errors import UserError
from kd_lightning.teachers.classes import ClassOrder, as_index, in_class_order
from kd_lightning.utils.network_output import logits_of
from kd_lightning.utils.paths import expand
from kd_lightning.utils.precision import at_least_float32

_ORDER = "class_order_{}"
"""Name of the buffer with a member's order of the classes."""


class EnsembleTeacher(nn.Module):
    """Average the predictions of separately trained networks, each with its weight.

    The mean of the logits is, at every temperature, the geometric mean of the members' softened distributions, made to
    add up to 1: cached once, it serves students of all temperatures. An offset that a member adds to all classes is
    without effect. The mean of the probabilities, softened at a temperature T, is the arithmetic mean. It is returned
    as logits whose softmax at T it is, and is another one at each T, so that T is to be the student's.

    As `teacher` of a `DistillModule` its `teacher_ckpt` is a list: a file or run folder for each member, in order.

    Args:
        members: the networks, at least one, each built like a teacher: images (B, C, H, W) to logits (B, classes).
        weights: of each member, at least 0; they are made to add up to 1. By default equal.
        mean: of `logits` or of `probabilities`.
        temperature: T of the probabilities, above 0; needed for them alone.

    Raises:
        UserError: no members, another number of weights, or a number out of range.

    Source: Hinton, Vinyals and Dean 2015, section 1 (arXiv 1503.02531), which takes either mean.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        weights: Sequence[float] | None = None,
        mean: Literal["logits", "probabilities"] = "logits",
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        if not members:
            raise UserError("members: none found, at least one network expected in an ensemble")
        if weights is not None and len(weights) != len(members):
            raise UserError(f"weights: {len(weights)} found, {len(members)} expected (the members)")
        if weights is not None and (not all(weight >= 0 for weight in weights) or not 0 < sum(weights) < torch.inf):
            raise UserError(f"weights: {list(weights)} found, numbers of at least 0 expected, one above 0")
        if mean not in ("logits", "probabilities"):
            raise UserError(f"mean: {mean} found, logits or probabilities expected")
        if (mean == "probabilities") != (temperature is not None):
            found = "none" if temperature is None else temperature
            expected = "the student's temperature" if temperature is None else "none with the mean of logits"
            raise UserError(f"temperature: {found} found in an ensemble, {expected} expected")
        if temperature is not None and not temperature > 0:
            raise UserError(f"temperature: {temperature} found, a number above 0 expected")
        self.members = nn.ModuleList(members)
        self.weights = None if weights is None else [weight / sum(weights) for weight in weights]
        self.mean, self.temperature = mean, temperature
        self.set_class_orders([None] * len(members))

    def set_class_orders(self, orders: Sequence[ClassOrder | None]) -> None:
        """Select each member's logits: class c is its output `places[c]`; with None the logits stay as they are."""
        self._orders = tuple(orders)
        for number, order in enumerate(orders):
            # Buffers, which move with the members, yet are not among the weights of a file.
            self.register_buffer(_ORDER.format(number), as_index(order), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes), in float32 or finer, of normalised images (B, C, H, W)."""
        logits = [
            in_class_order(logits_of(member(image)), getattr(self, _ORDER.format(number)), order)
            for number, (member, order) in enumerate(zip(self.members, self._orders, strict=True))
        ]
        each = torch.stack([at_least_float32(it) for it in logits])
        if self.temperature is not None:
            each = F.log_softmax(each / self.temperature, dim=2)
            return (each + self._share(each).log()).logsumexp(dim=0) * self.temperature
        if self.weights is None:
            return each.mean(dim=0)
        # A weight of 0 leaves out a class that its member alone masks with -inf.
        return torch.stack([weight * it for weight, it in zip(self.weights, each, strict=True) if weight]).sum(dim=0)

    def _share(self, each: Tensor) -> Tensor:
        """Return the weights, which add up to 1, as (members, 1, 1)."""
        return each.new_tensor(self.weights or [1 / len(each)] * len(each)).view(-1, 1, 1)

    def extra_repr(self) -> str:
        """Return what the mean depends on, for the key of cached logits; nothing for the plain mean of logits."""
        options = {"weights": self.weights, "temperature": self.temperature}
        return ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)


def networks_of(teacher: nn.Module) -> list[nn.Module]:
    """Return the networks of a teacher: an ensemble's members, or itself."""
    return [*teacher.members] if isinstance(teacher, EnsembleTeacher) else [teacher]


def parts_of(teacher: nn.Module, paths: str | Path | Sequence[str | Path]) -> list[tuple[nn.Module, str]]:
    """Pair the networks of a teacher with the paths of their weights.

    Raises:
        UserError: there are more paths than networks, or fewer.
    """
    networks = networks_of(teacher)
    listed = [expand(path, "teacher_ckpt") for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    if len(listed) != len(networks):
        whose = "the ensemble's members" if isinstance(teacher, EnsembleTeacher) else type(teacher).__name__
        raise UserError(f"teacher_ckpt: {len(listed)} paths found, {len(networks)} expected ({whose})")
    return list(zip(networks, listed, strict=True))
