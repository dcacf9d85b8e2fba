"""Samplers for resumed training and for evaluation on several processes."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler


class ResumingSampler(DistributedSampler[Any]):
    """Skips, in its first epoch, the images that an interrupted epoch has already trained on.

    Attributes:
        skip: number of images to skip in this process.
        views_of: epoch to the view of each image, int64 (N,), where loader workers need it; items are then pairs.
    """

    skip = 0
    views_of: Callable[[int], Tensor] | None = None

    def __iter__(self) -> Iterator[Any]:
        begin, self.skip = self.skip, 0
        items = islice(super().__iter__(), begin, None)
        if self.views_of is None:
            return items
        views = self.views_of(self.epoch).tolist()
        return ((item, views[item]) for item in items)


class EvaluationSampler(DistributedSampler[Any]):
    """Distributes an evaluation set over processes in batches, each image exactly once.

    All processes get the same number of batches, as sharded networks wait for each other in each batch. A process with
    one image more than another may get a batch of `batch_size` + 1.
    """

    def __init__(self, count: int, batch_size: int, processes: int, rank: int) -> None:
        super().__init__(range(count), processes, rank, shuffle=False)  # type: ignore[arg-type]  # only its length is used
        smallest, largest = count // processes, math.ceil(count / processes)
        batches = min(math.ceil(largest / batch_size), smallest)
        self._batches = [part.tolist() for part in torch.arange(rank, count, processes).tensor_split(batches)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)
