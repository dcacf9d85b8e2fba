"""Part of a dataset, in memory or streamed from files, and the dataset of indices that a loader reads."""

from collections.abc import Callable
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
    """Part of a dataset that is read during training: decode(i) returns image i, uint8 (C, H, W); label int64 (N,)."""

    decode: Callable[[int], Tensor]
    label: Tensor

    def read(self, index: Tensor) -> Tensor:
        """Read the images `index`, int64 (B,): uint8 (B, C, H, W)."""
        return torch.stack([self.decode(i) for i in index.tolist()])


class Indices(Dataset[Any]):
    """Dataset whose items are whole batches of indices, with the images where loader workers read them.

    Args:
        positions: int64 (N,), indices into `part`.
        part: the images.
        gather: whether to return the images of an `ImageSet` too; those of a `StreamedSet` are always returned.
    """

    def __init__(self, positions: Tensor, part: ImageSet | StreamedSet, gather: bool = False) -> None:
        self.positions = positions
        self.part = part if gather or isinstance(part, StreamedSet) else None

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: int | list[int]) -> Any:
        return self.__getitems__(item if isinstance(item, list) else [item])

    def __getitems__(self, items: list[int]) -> Any:
        index = self.positions[torch.tensor(items)]
        return index if self.part is None else (index, read(self.part, index))


def read(part: ImageSet | StreamedSet, index: Tensor) -> Tensor:
    """Return the images at `index`, int64 (B,): uint8 (B, C, H, W)."""
    return part.image[index] if isinstance(part, ImageSet) else part.read(index)
