"""Finite families of augmented views: each image has the same few views, and a view is a number.

The augmentation of an epoch is a tensor of view numbers, a batch is augmented by one gather on the device, and a
teacher's logits can be cached by (image, view).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


class ViewFamily(ABC):
    """Augmented views of training images."""

    count: int | None
    """Number of views of each image; None where new views are drawn in every epoch."""
    by_image = False
    """Whether images are augmented one by one, which loader workers do if there are any."""

    @abstractmethod
    def __repr__(self) -> str:
        """Return a text that identifies the family and its options: cached logits are valid for one family alone."""

    @abstractmethod
    def draw(self, size: int, generator: Generator) -> Tensor:
        """Draw a view for each of `size` images: int64 (size,), in [0, count)."""

    def prepare(self, images: Tensor) -> Tensor:
        """Convert images, uint8 (N, C, H, W), into the form that `gather` reads, all at once or in batches."""
        return images

    @abstractmethod
    def gather(self, prepared: Tensor, index: Tensor, view: Tensor) -> Tensor:
        """Return the views `view` of the images `index`, both int64 (B,).

        Returns:
            uint8 (B, C, H, W).
        """

    def original(self, prepared: Tensor, index: Tensor) -> Tensor:
        """Return the images `index`, int64 (B,), without augmentation: uint8 (B, C, H, W); by default their view 0."""
        return self.gather(prepared, index, torch.zeros_like(index))

    def augment(self, images: Tensor, index: Tensor, view: Tensor) -> Tensor:
        """Return views of images that were read for them.

        Args:
            images: uint8 (B, C, H, W).
            index: int64 (B,), their positions in the training set.
            view: int64 (B,).

        Returns:
            uint8 (B, C, H, W).
        """
        return self.gather(self.prepare(images), torch.arange(len(images), device=images.device), view)


class Identity(ViewFamily):
    """No augmentation: one view, the image itself."""

    count = 1

    def __repr__(self) -> str:
        return "Identity()"

    def draw(self, size: int, generator: Generator) -> Tensor:
        """Return view 0 for every image."""
        return torch.zeros(size, dtype=torch.int64)

    def gather(self, prepared: Tensor, index: Tensor, view: Tensor) -> Tensor:
        """Return the images themselves."""
        return prepared.index_select(0, index)


class _Windows(ViewFamily):
    """Windows of the zero-padded image, as large as the image, mirrored or not.

    Args:
        margin: largest offset of a window, in pixels.
        weights: relative probabilities of the offsets on each axis, from -margin to margin.
        mirror: whether each window also occurs mirrored, with equal probability.
        step: distance of neighbouring offsets, in pixels; `margin` is a multiple of it.
    """

    def __init__(self, margin: int, weights: Sequence[int], mirror: bool = False, step: int = 1) -> None:
        self.margin = margin
        span = range(-margin, margin + 1, step)
        # A stable sort: the image itself first, the others in row order.
        self.offsets = sorted(product(span, span), key=lambda offset: offset != (0, 0))
        """(down, right) by which a view shifts the image, in pixels; mirrored views repeat them."""
        axis = {offset: weight / sum(weights) for offset, weight in zip(span, weights, strict=True)}
        once = torch.tensor([axis[down] * axis[right] for down, right in self.offsets])
        self.probabilities = torch.cat([once / 2, once / 2]) if mirror else once
        self.count = len(self.probabilities)
        # An image moved down by d is the window that starts d rows higher in the padded image.
        starts = torch.tensor([(margin - down, margin - right) for down, right in self.offsets])
        self._starts = starts.repeat(self.count // len(starts), 1).T.contiguous()

    def __repr__(self) -> str:
        options = {name: value for name, value in vars(self).items() if not isinstance(value, Tensor)}
        return f"{type(self).__qualname__}({options})"  # those of subclasses too

    def draw(self, size: int, generator: Generator) -> Tensor:
        """Draw a window, mirrored or not, for each image."""
        return torch.multinomial(self.probabilities, size, replacement=True, generator=generator)

    def prepare(self, images: Tensor) -> Tensor:
        """Pad every image with `margin` zeros on each side, contiguous in memory."""
        return F.pad(images, (self.margin,) * 4).contiguous()

    def gather(self, prepared: Tensor, index: Tensor, view: Tensor) -> Tensor:
        """Cut each window out of its padded image, and mirror it.

        The memory from a window's first pixel to its last is copied as one block and read with the strides of the
        padded images, which takes a fraction of the time of a gather by pixel.
        """
        self._starts = self._starts.to(view.device)  # moved once
        rows, columns = self._starts
        image, channel, row, _ = prepared.stride()
        channels, height, width = prepared.shape[1], *(side - 2 * self.margin for side in prepared.shape[2:])
        length = (channels - 1) * channel + (height - 1) * row + width
        first = index * image + rows[view] * row + columns[view]
        stretches = prepared.as_strided((prepared.numel() - length + 1, length), (1, 1)).index_select(0, first)
        images = stretches.as_strided((len(index), channels, height, width), (length, channel, row, 1))
        if self.count == len(self.offsets):
            return images
        mirrored = (view >= len(self.offsets)).view(-1, 1, 1, 1)
        return torch.where(mirrored, images.flip(-1), images)


class Shift(_Windows):
    """Shift by whole pixels in any direction, with zeros where the image ends.

    The (2m + 1)² views have the probabilities of torchvision's `RandomAffine(0, translate=(m / W, m / H))`, which
    rounds a uniform draw from [-m, m]: 1 / 4m for the two outermost offsets of an axis, 1 / 2m for the others.

    Args:
        max_shift: m, in pixels, at least 1.

    Raises:
        ValueError: `max_shift` is below 1.

    Source: the jittered MNIST of Hinton et al. 2015, section 3 (arXiv 1503.02531), where m = 2.
    """

    def __init__(self, max_shift: int = 2) -> None:
        if max_shift < 1:
            raise ValueError(f"max_shift must be at least 1 pixel, not {max_shift}")
        super().__init__(max_shift, [1] + [2] * (2 * max_shift - 1) + [1])


class CropFlip(_Windows):
    """Crop of the zero-padded image, as large as the image, mirrored left to right or not.

    The 2 (2p / s + 1)² views are equally probable; with s = 1 they are those of torchvision's
    `RandomCrop(size, padding=p)` and `RandomHorizontalFlip()`. A cached teacher computes each view once, so a larger
    step fills the cache sooner.

    Args:
        padding: p, in pixels, at least 0.
        mirror: whether to mirror images, with probability 1/2; False for digits or text.
        step: s, distance of neighbouring crops in pixels; p is a multiple of it.

    Raises:
        ValueError: `padding` is below 0, or no multiple of `step`.

    Source: He et al. 2016, Deep residual learning, section 4.2 (arXiv 1512.03385), where p = 4.
    """

    def __init__(self, padding: int = 4, mirror: bool = True, step: int = 1) -> None:
        if padding < 0:
            raise ValueError(f"padding must be at least 0 pixels, not {padding}")
        if step < 1 or padding % step:
            raise ValueError(f"step must be at least 1 pixel and divide the padding of {padding}, not {step}")
        super().__init__(padding, [1] * (2 * padding // step + 1), mirror, step)
