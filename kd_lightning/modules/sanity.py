"""What a network gives for two blank images, compared with the data before any step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.eval_mode import eval_mode


def read_blank_images(
    network: nn.Module, name: str, shape: tuple[int, ...], memory_format: torch.memory_format
) -> tuple[Any, torch.memory_format]:
    """Run a network on two blank images, and find the memory format that it can read.

    Channels last is the order in which convolutions are fastest. A network that takes its maps apart by `view` cannot
    read it, and gets the usual one.

    Args:
        network: images to logits; it is put into the memory format.
        name: what it is, for errors.
        shape: of an image, without the batch.
        memory_format: to try first.

    Returns:
        What the network gave, and the memory format.

    Raises:
        UserError: the network cannot read such images.
    """
    network.to(memory_format=memory_format)
    parameter = next(network.parameters(), torch.empty(0))
    image = torch.zeros(2, *shape, device=parameter.device, dtype=parameter.dtype)
    try:
        with eval_mode(network), torch.no_grad():
            return network(image.to(memory_format=memory_format)), memory_format
    except UserError:  # from a tapped layer
        raise
    except Exception as error:  # the network may be anybody's
        if memory_format == torch.channels_last:
            return read_blank_images(network, name, shape, torch.contiguous_format)
        shown = "x".join(map(str, shape))
        raise UserError(
            f"{name}: {type(network).__name__} cannot read images of {shown} ({one_line(error)})"
        ) from error


def check_logits(network: nn.Module, name: str, logits: Any, classes: int | None, whose: Callable[[], str]) -> int:
    """Raise `UserError` unless a network gave logits (2, classes) for two images.

    Args:
        network: that gave them.
        name: what it is, for errors.
        logits: what it gave.
        classes: how many are expected; any number where None.
        whose: says who expects so many, for errors.

    Returns:
        How many classes the network has.
    """
    kind = type(network).__name__
    if not isinstance(logits, Tensor):
        raise UserError(f"{name}: {kind} gives a {type(logits).__name__}, a tensor of logits expected")
    if logits.dim() != 2 or len(logits) != 2:
        raise UserError(
            f"{name}: {kind} gives a tensor of shape {tuple(logits.shape)} for 2 images, 2 rows of logits expected"
        )
    if classes and logits.shape[1] != classes:
        raise UserError(f"{name}: {kind} gives {logits.shape[1]} classes, the {whose()} has {classes}")
    return logits.shape[1]
