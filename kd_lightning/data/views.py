"""Finite families of augmentations: each image has the same few views, and a view is a number.

Because a view is a number, one epoch's augmentation is a table of numbers, a batch is augmented by one gather on
the device, and a teacher's output for (image, view) can be kept.
"""

from abc import ABC, abstractmethod
from itertools import product

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


class ViewFamily(ABC):
    """The views under which training images are shown. View 0 is always the untouched image."""

    count: int
    """How many views each image has."""

    @abstractmethod
    def draw(self, size: int, generator: Generator) -> Tensor:
        """Draw a view for each of `size` images: int64 (size,), in [0, count)."""

    def prepare(self, images: Tensor) -> Tensor:
        """Bring all images, uint8 (N, C, H, W), into the form that `gather` reads; done once."""
        return images

    @abstractmethod
    def gather(self, prepared: Tensor, index: Tensor, view: Tensor) -> Tensor:
        """Show the images `index` under the views `view`, both int64 (B,).

        Returns:
            uint8 (B, C, H, W).
        """


class Identity(ViewFamily):
    """No augmentation: one view, the image itself."""

    count = 1

    def draw(self, size: int, generator: Generator) -> Tensor:
        """Draw view 0 for every image."""
        return torch.zeros(size, dtype=torch.int64)

    def gather(self, prepared: Tensor, index: Tensor, view: Tensor) -> Tensor:
        """Pick the images themselves."""
        return prepared[index]


class Shift(ViewFamily):
    """Jitter: the image moved by whole pixels in any direction, black where nothing was.

    The (2m + 1)² views carry the probabilities of torchvision's `RandomAffine(0, translate=(m / W, m / H))`, which
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
        self.max_shift = max_shift
        span = range(-max_shift, max_shift + 1)
        # Stable sort: the untouched image first, the others in reading order.
        self.offsets = sorted(product(span, span), key=lambda offset: offset != (0, 0))
        """(down, right) of each view, in pixels."""
        self.count = len(self.offsets)
        axis = {offset: (1 if abs(offset) == max_shift else 2) / (4 * max_shift) for offset in span}
        self.probabilities = torch.tensor([axis[down] * axis[right] for down, right in self.offsets])
        # An image moved down by d is the window that starts d rows higher in the padded image.
        self._rows = torch.tensor([max_shift - down for down, _ in self.offsets])
        self._columns = torch.tensor([max_shift - right for _, right in self.offsets])

    def draw(self, size: int, generator: Generator) -> Tensor:
        """Draw the offsets of both axes for each image."""
        return torch.multinomial(self.probabilities, size, replacement=True, generator=generator)

    def prepare(self, images: Tensor) -> Tensor:
        """Pad every image with `max_shift` black pixels on each side."""
        return F.pad(images, (self.max_shift,) * 4)

    def gather(self, prepared: Tensor, index: Tensor, view: Tensor) -> Tensor:
        """Cut each image's window out of its padded form: a strided view until the one gather at the end."""
        if self._rows.device != view.device:
            self._rows, self._columns = self._rows.to(view.device), self._columns.to(view.device)
        height, width = (side - 2 * self.max_shift for side in prepared.shape[-2:])
        windows = prepared.unfold(2, height, 1).unfold(3, width, 1)
        return windows[index, :, self._rows[view], self._columns[view]]
