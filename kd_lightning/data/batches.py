"""Make batches on the device from indices: gather, augment, normalise, resize."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kd_lightning.batch import UNLABELLED, Batch
from kd_lightning.data.mixes import Draws, Mix, Mixes
from kd_lightning.data.sets import ImageSet, StreamedSet, read
from kd_lightning.data.views import ViewFamily
from kd_lightning.utils.resize import resize

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
    return resize(image.float().mul_(scale).add_(shift), shape[1:])


def neighbours(images: int, size: int) -> Tensor:
    """Return the rows of a batch's partners, int64 (images,): each its neighbour's, among `size` images of a step."""
    return torch.cat([rows.roll(1) for rows in torch.arange(images).split(size)])


@dataclass(frozen=True)
class Reader:
    """Reads the images of batches in loader workers.

    Attributes:
        part: images and labels.
        views: augmentation, which is applied here if it is by image.
        mixes: of the training images, if each has a fixed number of them.
    """

    part: ImageSet | StreamedSet
    views: ViewFamily
    mixes: Mixes | None = None

    def __call__(self, index: Tensor, view: Tensor | None) -> list[Tensor]:
        """Return the images of a batch, and those of its partners if it is mixed: uint8 (B, C, H, W) each.

        Args:
            index: int64 (B,), on the CPU.
            view: int64 (B,), of the images, or the number of a mix; None for no augmentation.
        """
        pairs = [(index, view)] if view is None or self.mixes is None else self.mixes.pairs(index, view)
        return [self._read(*pair) for pair in pairs]

    def _read(self, index: Tensor, view: Tensor | None) -> Tensor:
        images = read(self.part, index)
        return self.views.augment(images, index, view) if view is not None and self.views.by_image else images


class BatchMaker:
    """Makes batches of one part of a dataset on the device of the indices.

    Args:
        part: images and labels.
        views: augmentation.
        mean: float (C,) or (1,), subtracted from pixels in [0, 1].
        std: float (C,) or (1,), divisor after that.
        shape: (C, H, W) of the network's input.
        classes: number of classes.
        mix: mixing of the training images; see `mix_with`.
    """

    mix: Mix | None = None
    _mixes: Mixes | None = None

    def __init__(
        self,
        part: ImageSet | StreamedSet,
        views: ViewFamily,
        mean: Tensor,
        std: Tensor,
        shape: tuple[int, int, int],
        classes: int,
    ) -> None:
        self.part = part
        self.views = views
        self.shape = shape
        self.classes = classes
        self._scale, self._shift = scale_and_shift(mean, std)
        self._on_device: dict[torch.device, ImageSet] = {}

    def mix_with(self, mix: Mix, positions: Tensor) -> None:
        """Mix training images; partners are those at `positions`, int64 (n,)."""
        self.mix = mix
        if mix.count is not None:
            self._mixes = mix.fixed(len(self.part.label), positions, self.views)

    @property
    def is_resident(self) -> bool:
        """Return whether all images are copied to the device, where batches are then gathered."""
        return isinstance(self.part, ImageSet) and self.part.image.nbytes <= RESIDENT_BYTES

    @property
    def reader(self) -> Reader:
        """Return what loader workers need to read images."""
        return Reader(self.part, self.views, self._mixes and self._mixes.to(torch.device("cpu")))

    def make_batch(
        self,
        index: Tensor,
        view: Tensor | None = None,
        images: Sequence[Tensor] = (),
        live: tuple[Tensor, Draws] | None = None,
    ) -> Batch:
        """Return a batch of augmented, normalised images on the device of `index`.

        Args:
            index: int64 (B,), into the part.
            view: int64 (B,), of the images, or the number of a mix; no augmentation by default.
            images: those of `Reader.read`, if they have been read already.
            live: how a batch without fixed mixes is mixed: the rows of the partners, int64 (B,), and the draws.
        """
        if view is not None and self._mixes is not None:
            return self._fixed_mixes(index, view, images)
        image = self._images(index, view, images[0] if images else None)
        batch = Batch(image, self._labels(index), index, torch.zeros_like(index) if view is None else view)
        return batch if live is None else self._mixed(batch, image[live[0]], batch.label[live[0]], live[1])

    def _fixed_mixes(self, index: Tensor, view: Tensor, images: Sequence[Tensor]) -> Batch:
        """Return a batch of the mixes `view`, int64 (B,), of the images `index`."""
        assert self._mixes is not None
        self._mixes = self._mixes.to(index.device)
        (_, own_view), (partner, partner_view) = self._mixes.pairs(index, view)
        image = self._images(index, own_view, images[0] if images else None)
        other = self._images(partner, partner_view, images[1] if images else None)
        batch = Batch(image, self._labels(index), index, view)
        return self._mixed(batch, other, self._labels(partner), self._mixes.draws(index, view))

    def _mixed(self, batch: Batch, partner: Tensor, partner_label: Tensor, draws: Draws) -> Batch:
        """Mix a batch with its partners, images float (B, C, H, W) and labels int64 (B,)."""
        assert self.mix is not None
        image, share = self.mix.combine(batch.image, partner, draws)
        if self.mix.hard_loss == "unmixed":
            return batch._replace(image=image, unmixed=batch.image)
        both = torch.stack([batch.label, partner_label], dim=1)
        weights = torch.stack([share, 1 - share], dim=1) * (both != UNLABELLED).all(dim=1, keepdim=True)
        target = torch.zeros(len(image), self.classes, device=image.device)
        return batch._replace(image=image, target=target.scatter_add_(1, both.clamp(min=0), weights))

    def _images(self, index: Tensor, view: Tensor | None, read: Tensor | None) -> Tensor:
        """Return normalised views of images, which may have been read already."""
        if read is not None:
            images = read.to(index.device)
            if view is not None and not self.views.by_image:
                images = self.views.augment(images, index, view)
            return self._normalise(images)
        if self.is_resident:
            assert isinstance(self.part, ImageSet)
            prepared = self._resident(self.part, index.device).image
            return self._normalise(
                self.views.original(prepared, index) if view is None else self.views.gather(prepared, index, view)
            )
        images = self.stored_images(index)
        if view is not None and self.views.by_image:
            images = self.views.augment(images, index, view)
        return self._images(index, view, images)

    def _labels(self, index: Tensor) -> Tensor:
        if self.is_resident:
            assert isinstance(self.part, ImageSet)
            return self._resident(self.part, index.device).label[index]
        return self.part.label[index.cpu()].to(index.device)

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
