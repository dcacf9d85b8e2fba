"""Dropout that is fast on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 256
"""Values of a random byte, hence the resolution of the probability."""


class Dropout(nn.Dropout):
    """torch's dropout, with a mask of random bytes on a CPU, eight from each 64-bit draw.

    torch draws a double for every unit on a CPU, which takes half of a training step of a 1200-unit network. With bytes
    the probability is a multiple of 1/256 (0.5 exactly, 0.2 as 51/256); kept units are scaled by the same probability,
    so that the expectation is exact. On other devices it is torch's own.

    Args:
        p: probability in [0, 1) with which a unit is dropped.

    Source: Srivastava et al. 2014, Dropout (JMLR 15).
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def forward(self, input: Tensor) -> Tensor:
        """Drop units in train mode; the identity in eval mode."""
        dropped = round(self.p * LEVELS)
        if not self.training or input.device.type != "cpu" or dropped == LEVELS:
            return F.dropout(input, self.p, self.training)
        words = torch.empty((input.numel() + 7) // 8, dtype=torch.int64)
        words.random_(torch.iinfo(torch.int64).min, None)
        keep = torch.empty_like(input)  # with the input's dtype and strides, which a product would convert
        torch.ge(words.view(torch.uint8).as_strided(keep.shape, keep.stride()), dropped, out=keep)
        return (input * keep).mul_(LEVELS / (LEVELS - dropped))
