"""From places in a dataset to batches on the device: one gather, the view, the normalisation, the size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.data.sets import ImageSet, StreamedSet, read
from kd_lightning.data.views import ViewFamily

RESIDENT_BYTES = 2 * 2**30
"""A set up to this size is copied to the device, under its views; a larger one stays where it is, a memory map."""


def scale_and_shift(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """(pixel / 255 - mean) / std in one multiplication and one addition: its factor and its summand, (C, 1, 1)."""
    return (1 / (255 * std)).view(-1, 1, 1), (-mean / std).view(-1, 1, 1)


def finish(image: Tensor, scale: Tensor, shift: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Normalise images, and resize them where they are stored at another size than they are shown at.

    Args:
        image: uint8 (B, C, H, W).
        scale: float (C, 1, 1), see `scale_and_shift`.
        shift: likewise.
        shape: (C, H, W) of the images as the network gets them.
    """
    image = image.float().mul_(scale).add_(shift)
    if image.shape[1:] == shape:
        return image
    # Antialiasing changes nothing where an image grows, and resizing takes half of the time without it.
    shrinks = any(shown < stored for shown, stored in zip(shape, image.shape[1:], strict=True))
    image = image.contiguous(memory_format=torch.channels_last)
    return F.interpolate(image, shape[1:], mode="bilinear", antialias=shrinks)


class Dealer:
    """Makes the images of one part of a dataset ready for a network, on the device that asks for them.

    Args:
        part: the images.
        views: under which they are shown.
        mean: float (C,) or (1,), subtracted from pixels in [0, 1].
        std: float (C,) or (1,), divided by.
        shape: (C, H, W) of the images as the network gets them.
    """

    def __init__(
        self, part: ImageSet | StreamedSet, views: ViewFamily, mean: Tensor, std: Tensor, shape: tuple[int, int, int]
    ) -> None:
        self.part = part
        self.views = views
        self.shape = shape
        self._scale, self._shift = scale_and_shift(mean, std)
        self._on_device: dict[torch.device, ImageSet] = {}

    @property
    def is_resident(self) -> bool:
        """Whether all images are copied to the device, so that a batch is gathered there."""
        return isinstance(self.part, ImageSet) and self.part.image.nbytes <= RESIDENT_BYTES

    def deal(self, index: Tensor, view: Tensor | None = None, images: Tensor | None = None) -> Batch:
        """Gather images on the device of `index`, under their views, normalised.

        Args:
            index: int64 (B,), into the part.
            view: int64 (B,); untouched images by default.
            images: uint8 (B, C, H, W), where they were read already.
        """
        view = torch.zeros_like(index) if view is None else view
        if images is None and isinstance(self.part, ImageSet) and self.is_resident:
            resident = self._resident(self.part, index.device)
            shown = self.views.gather(resident.image, index, view)
            return Batch(self._finish(shown), resident.label[index], index, view)
        images = self.stored(index) if images is None else images
        prepared = self.views.prepare(images.to(index.device))
        shown = self.views.gather(prepared, torch.arange(len(index), device=index.device), view)
        return Batch(self._finish(shown), self.part.label[index.cpu()].to(index.device), index, view)

    def stored(self, index: Tensor) -> Tensor:
        """Images as they are stored: uint8 (B, C, H, W), where the part is."""
        return read(self.part, index.cpu())

    def _resident(self, part: ImageSet, device: torch.device) -> ImageSet:
        """All of the part on a device, in the form that its views read; made once."""
        if device not in self._on_device:
            self._on_device[device] = ImageSet(self.views.prepare(part.image), part.label).to(device)
        return self._on_device[device]

    def _finish(self, image: Tensor) -> Tensor:
        if self._scale.device != image.device:
            self._scale, self._shift = self._scale.to(image.device), self._shift.to(image.device)
        return finish(image, self._scale, self._shift, self.shape)
