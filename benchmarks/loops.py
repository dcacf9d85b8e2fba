"""Plain PyTorch training loops: what every source's has in common."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from benchmarks.turns import Turn


def plain_loop(
    batches: DataLoader[Any], loss: Callable[[Tensor, Tensor], Tensor], optimizer: Optimizer, steps: int | None = None
) -> Turn:
    """The seconds of one epoch of a plain loop: batch, loss, backward, step.

    Args:
        batches: images and labels; iterated anew in every turn, and so are the workers of a loader.
        loss: of a batch's images and labels.
        optimizer: of what is trained.
        steps: how many are timed, where an epoch takes too long; the epoch's seconds are then worked out from them.
    """

    def turn() -> float:
        begin, done = time.perf_counter(), 0
        for image, label in batches:
            optimizer.zero_grad()
            loss(image, label).backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
        seconds = time.perf_counter() - begin
        return seconds * len(batches) / done

    return turn


def divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The sources' soft loss before their weights: summed over classes, averaged over the batch, no T squared."""
    return F.kl_div(
        F.log_softmax(student_logits / temperature, dim=-1),
        F.softmax(teacher_logits / temperature, dim=-1),
        reduction="batchmean",
    )


def answers_of(teacher: torch.nn.Module, image: Tensor) -> Tensor:
    """What a frozen teacher says."""
    with torch.no_grad():
        return teacher(image)
