"""Resize batches of images."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(image: Tensor, size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """Resize images, with antialiasing where they shrink; images of that size are returned as they are.

    Args:
        image: float32 (B, C, H, W).
        size: height and width of the result.
        interpolation: `bilinear` or `bicubic`.
    """
    if image.shape[2:] == size:
        return image
    # Antialiasing does not change enlarged images, and doubles the time.
    shrinks = any(target < stored for target, stored in zip(size, image.shape[2:], strict=True))
    image = image.contiguous(memory_format=torch.channels_last)
    return F.interpolate(image, size, mode=interpolation, antialias=shrinks)
