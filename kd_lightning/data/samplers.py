"""Samplers for resumed training and for evaluation on several processes."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DistributedSampler


class ResumingSampler(DistributedSampler[Any]):
    """Skips, in its first epoch, the images that an interrupted epoch has already trained on.

    Attributes:
        skip: number of images to skip in this process.
    """

    skip = 0

    def __iter__(self) -> Iterator[Any]:
        begin, self.skip = self.skip, 0
        return islice(super().__iter__(), begin, None)


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
