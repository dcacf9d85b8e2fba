"""Dropout that costs little on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 256
"""Probabilities that one random byte can tell apart."""


class Dropout(nn.Dropout):
    """torch's dropout; on a CPU its mask is drawn from random bytes, eight from each 64-bit draw.

    torch draws a double for every unit there, which is half of a training step of a 1200-unit network. From bytes
    the probability is a multiple of 1/256 (0.5 exactly, 0.2 as 51/256), and what is kept is scaled by that same
    probability, so that the expectation is exact. On other devices it is torch's own.

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
        keep = torch.empty_like(input)  # of the input's type and order in memory: otherwise each product converts it
        torch.ge(words.view(torch.uint8).as_strided(keep.shape, keep.stride()), dropped, out=keep)
        return (input * keep).mul_(LEVELS / (LEVELS - dropped))
