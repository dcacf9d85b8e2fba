"""A teacher that nothing can change."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn


class FrozenTeacher(nn.Module):
    """A trained network held so that it moves with its owner and takes part in nothing else.

    The network stays outside the module registry: its weights are in no optimizer, no checkpoint of the owner and
    no gradient reduction between devices. It follows the owner to a device or precision, is always in eval mode
    and never builds a graph.

    `no_grad`, not `inference_mode`: losses on the teacher's outputs save them for the student's backward pass.

    Args:
        network: the trained network.
    """

    network: nn.Module

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "network", network.eval().requires_grad_(False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode whatever the owner does."""
        self.network.eval()
        return super().train(False)

    @torch.no_grad()
    def forward(self, *args: Any) -> Any:
        """Call the network."""
        return self.network(*args)
