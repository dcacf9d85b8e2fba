"""Make batches on the device from indices: gather, augment, normalise, resize."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.data.sets import ImageSet, StreamedSet, read
from kd_lightning.data.views import ViewFamily

RESIDENT_BYTES = 2 * 2**30
"""Sets up to this size are copied to the device; larger ones stay memory-mapped."""


def scale_and_shift(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Return factor and summand, (C, 1, 1), of (pixel / 255 - mean) / std as one multiplication and one addition."""
    return (1 / (255 * std)).view(-1, 1, 1), (-mean / std).view(-1, 1, 1)


def normalise_and_resize(image: Tensor, scale: Tensor, shift: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Normalise images, and resize them where the network reads another size than the stored one.

    Args:
        image: uint8 (B, C, H, W).
        scale: float (C, 1, 1), see `scale_and_shift`.
        shift: float (C, 1, 1), see `scale_and_shift`.
        shape: (C, H, W) of the network's input.
    """
    image = image.float().mul_(scale).add_(shift)
    if image.shape[1:] == shape:
        return image
    # Antialiasing does not change enlarged images, and doubles the time.
    shrinks = any(target < stored for target, stored in zip(shape, image.shape[1:], strict=True))
    image = image.contiguous(memory_format=torch.channels_last)
    return F.interpolate(image, shape[1:], mode="bilinear", antialias=shrinks)


class BatchMaker:
    """Makes batches of one part of a dataset on the device of the indices.

    Args:
        part: images and labels.
        views: augmentation.
        mean: float (C,) or (1,), subtracted from pixels in [0, 1].
        std: float (C,) or (1,), divisor after that.
        shape: (C, H, W) of the network's input.
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
        """Return whether all images are copied to the device, where batches are then gathered."""
        return isinstance(self.part, ImageSet) and self.part.image.nbytes <= RESIDENT_BYTES

    def make_batch(self, index: Tensor, view: Tensor | None = None, images: Tensor | None = None) -> Batch:
        """Return a batch of augmented, normalised images on the device of `index`.

        Args:
            index: int64 (B,), into the part.
            view: int64 (B,); view 0, no augmentation, by default.
            images: uint8 (B, C, H, W), if they have been read already.
        """
        view = torch.zeros_like(index) if view is None else view
        if images is None and isinstance(self.part, ImageSet) and self.is_resident:
            resident = self._resident(self.part, index.device)
            augmented = self.views.gather(resident.image, index, view)
            return Batch(self._normalise(augmented), resident.label[index], index, view)
        images = self.stored_images(index) if images is None else images
        prepared = self.views.prepare(images.to(index.device))
        augmented = self.views.gather(prepared, torch.arange(len(index), device=index.device), view)
        return Batch(self._normalise(augmented), self.part.label[index.cpu()].to(index.device), index, view)

    def stored_images(self, index: Tensor) -> Tensor:
        """Return images as stored: uint8 (B, C, H, W), on the device of the part."""
        return read(self.part, index.cpu())

    def _resident(self, part: ImageSet, device: torch.device) -> ImageSet:
        """Return the whole part on a device, prepared for its views; made once."""
        if device not in self._on_device:
            self._on_device[device] = ImageSet(self.views.prepare(part.image), part.label).to(device)
        return self._on_device[device]

    def _normalise(self, image: Tensor) -> Tensor:
        if self._scale.device != image.device:
            self._scale, self._shift = self._scale.to(image.device), self._shift.to(image.device)
        return normalise_and_resize(image, self._scale, self._shift, self.shape)
