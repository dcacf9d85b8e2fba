"""Combine several trained networks into one teacher."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kd_lightning.errors import UserError
from kd_lightning.teachers.classes import ClassOrder, as_index, in_class_order
from kd_lightning.utils.network_output import logits_of
from kd_lightning.utils.paths import expand

_ORDER = "class_order_{}"
"""Name of the buffer with a member's order of the classes."""


class EnsembleTeacher(nn.Module):
    """Average the logits of separately trained networks.

    softmax(mean of logits / T) is the geometric mean of the members' softened distributions, made to add up to 1, at
    every temperature T: so one answer, kept or not, serves students of all temperatures. (The arithmetic mean of the
    distributions is another one at each T.) An offset that a member adds to all classes is without effect.

    As `teacher` of a `DistillModule` its `teacher_ckpt` is a list: a file or run folder for each member, in order.

    Args:
        members: the networks, at least one, each built like a teacher: images (B, C, H, W) to logits (B, classes).

    Raises:
        UserError: no members.

    Source: Hinton, Vinyals and Dean 2015, section 1 (arXiv 1503.02531), which takes either mean.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise UserError("members: none found, at least one network expected in an ensemble")
        self.members = nn.ModuleList(members)
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
        return torch.stack([it.to(torch.promote_types(it.dtype, torch.float32)) for it in logits]).mean(dim=0)


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
