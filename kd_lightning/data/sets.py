"""Part of a dataset, in memory or streamed from files, and the dataset of indices that a loader reads."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset


class ImageSet(NamedTuple):
    """Part of a dataset in memory or memory-mapped: image uint8 (N, C, H, W), label int64 (N,)."""

    image: Tensor
    label: Tensor

    def to(self, device: torch.device) -> "ImageSet":
        """Return a copy on a device; tensors that are there already are not copied."""
        return ImageSet(self.image.to(device), self.label.to(device))


class StreamedSet(NamedTuple):
    """Part of a dataset that is read during training.

    Attributes:
        decode: returns image i, uint8 (C, H, W).
        label: int64 (N,).
        digest: identifies the images without reading them, such as by the names, sizes and times of their files; with
            it, a teacher's logits can be cached. Empty if it is not known.
    """

    decode: Callable[[int], Tensor]
    label: Tensor
    digest: str = ""

    def read(self, index: Tensor) -> Tensor:
        """Read the images `index`, int64 (B,): uint8 (B, C, H, W)."""
        return torch.stack([self.decode(i) for i in index.tolist()])


class Indices(Dataset[Any]):
    """Dataset whose items are whole batches of indices, with the images where loader workers read them.

    An item is a position, or a position and the view under which its image is read.

    Args:
        positions: int64 (N,), indices into a part.
        read_images: (index, view) to images, both int64 (B,); None to return indices alone.
    """

    def __init__(
        self, positions: Tensor, read_images: Callable[[Tensor, Tensor | None], Sequence[Tensor]] | None = None
    ) -> None:
        self.positions = positions
        self.read_images = read_images

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: Any) -> Any:
        return self.__getitems__(item if isinstance(item, list) else [item])

    def __getitems__(self, items: list[Any]) -> Any:
        places, *views = torch.tensor(items).T if isinstance(items[0], tuple) else [torch.tensor(items)]
        index = self.positions[places]
        return index if self.read_images is None else (index, *self.read_images(index, views[0] if views else None))


def read(part: ImageSet | StreamedSet, index: Tensor) -> Tensor:
    """Return the images at `index`, int64 (B,): uint8 (B, C, H, W)."""
    return part.image[index] if isinstance(part, ImageSet) else part.read(index)
