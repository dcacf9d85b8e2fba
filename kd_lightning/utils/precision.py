"""The precision in which losses are computed."""

import torch
from torch import Tensor


def at_least_single(tensor: Tensor) -> Tensor:
    """In float32 where it was less, or as it is: a sum in half precision loses most of its digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
