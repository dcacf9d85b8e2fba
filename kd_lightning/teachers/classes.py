"""Match a teacher's classes with the data's, by their names."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd_lightning.checkpoints.description import listed
from kd_lightning.errors import UserError
from kd_lightning.utils.name_list import read_lines

CLASSES = "teacher_classes"
"""The option with the names of a teacher's classes."""


class ClassOrder(NamedTuple):
    """Which outputs of a network are the classes of the data.

    Attributes:
        places: for each class of the data, the index of the network's output.
        outputs: number of the network's outputs, at least as many.
    """

    places: list[int]
    outputs: int


def as_index(order: ClassOrder | None) -> Tensor | None:
    """Convert an order of classes to int64 (classes,); None stays None."""
    return None if order is None else torch.tensor(order.places)


def in_class_order(logits: Any, index: Tensor | None, order: ClassOrder | None) -> Any:
    """Select the data's classes from logits (B, outputs), if there is an order.

    Args:
        logits: of a network.
        index: `as_index` of the order.
        order: None where the outputs are the data's classes.

    Raises:
        UserError: the network has another number of outputs than class names.
    """
    if index is None or order is None:
        return logits
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] != order.outputs:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"teacher: output of {found} found, {order.outputs} logits expected, one for each class name")
    return logits.index_select(-1, index.to(logits.device))


def match_classes(names: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """Find the data's classes among those that the user names for a teacher.

    Args:
        names: of the teacher's outputs.
        ours: names of the data's classes.

    Returns:
        For each class of the data, the index of the teacher's output; None if the names are the same.

    Raises:
        UserError: a class of the data is missing or named twice.
    """
    if not ours:
        raise UserError(f"{CLASSES}: found, but the data has no class names to match")
    found = Counter(names)
    if not any(name in found for name in ours):
        raise UserError(f"{CLASSES}: no overlap of class names: {listed(names)} found, the data has {listed(ours)}")
    if wrong := [name for name in ours if found[name] != 1]:
        raise UserError(f"{CLASSES}: {listed(wrong)} of the data expected once each, found are {listed(names)}")
    return None if tuple(names) == tuple(ours) else [names.index(name) for name in ours]


def stated_names(network: nn.Module) -> tuple[str, ...]:
    """Return the class names that a network of Hugging Face states; empty for any other."""
    stated = getattr(getattr(network, "config", None), "id2label", None)
    names = tuple(str(stated[number]) for number in sorted(stated)) if isinstance(stated, dict) else ()
    return () if any(re.fullmatch(r"LABEL_\d+", name) for name in names) else names  # not stated


def read_names(classes: str | Sequence[str]) -> tuple[str, ...]:
    """Return names from a list, or from a text file with one in each line; empty lines are skipped.

    Raises:
        UserError: the file cannot be read, or there are no names.
    """
    names = tuple(read_lines(classes, CLASSES))
    if not names:
        raise UserError(f"{CLASSES}: no names found, one for each output of the teacher expected")
    return names
