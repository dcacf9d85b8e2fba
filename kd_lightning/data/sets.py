"""A part of a dataset, in memory or read from files while training goes on, and how a loader deals it out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset


class ImageSet(NamedTuple):
    """One part of a dataset, in memory or memory-mapped: image uint8 (N, C, H, W), label int64 (N,)."""

    image: Tensor
    label: Tensor

    def to(self, device: torch.device) -> "ImageSet":
        """Copy to a device, or return itself where it is there already."""
        return ImageSet(self.image.to(device), self.label.to(device))


class StreamedSet(NamedTuple):
    """One part of a dataset too large to keep: decode(i) reads image i, uint8 (C, H, W); label int64 (N,)."""

    decode: Callable[[int], Tensor]
    label: Tensor

    def read(self, index: Tensor) -> Tensor:
        """Read the images `index`, int64 (B,): uint8 (B, C, H, W)."""
        return torch.stack([self.decode(i) for i in index.tolist()])


class Indices(Dataset[Any]):
    """Gives places in a part of a dataset, a whole batch at a time, and where a worker is to read them, the images too.

    Args:
        positions: int64 (N,), the places that there are.
        part: what they are places in.
        gather: whether the images of an `ImageSet` come with their places, as those of a `StreamedSet` always do.
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
    """Images of a part, int64 (B,), as it has them: uint8 (B, C, H, W)."""
    return part.image[index] if isinstance(part, ImageSet) else part.read(index)


def stratified(label: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Pick `size` places at random, the classes in the proportions of the whole: int64 (size,), ascending."""
    return stratified_order(label, generator)[:size].sort().values


def stratified_order(label: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of all places, int64 (N,), of which every beginning holds the classes in proportion."""
    order = torch.randperm(len(label), generator=generator)
    # Spread each class evenly over [0, 1).
    spread = torch.empty(len(label), dtype=torch.float64)
    for c in label.unique():
        members = order[label[order] == c]
        spread[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return spread.argsort(stable=True)
