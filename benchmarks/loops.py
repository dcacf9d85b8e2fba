"""A plain PyTorch training loop, as the sources have it."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from benchmarks.measure import Contender


def plain_loop(
    batches: DataLoader[Any], loss: Callable[[Tensor, Tensor], Tensor], optimizer: Optimizer, steps: int | None = None
) -> Contender:
    """Make a contender that returns the seconds of one epoch: batch, loss, backward, step.

    Args:
        batches: images and labels; each run starts a new iteration, with new workers.
        loss: maps images and labels to the loss.
        optimizer: of the trained parameters.
        steps: number of steps to time if an epoch takes too long; the result is extrapolated to an epoch.
    """

    def run() -> float:
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

    return run


def divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Compute the sources' soft loss: KL summed over classes, averaged over the batch, without T squared or weight."""
    return F.kl_div(
        F.log_softmax(student_logits / temperature, dim=-1),
        F.softmax(teacher_logits / temperature, dim=-1),
        reduction="batchmean",
    )


def teacher_logits(teacher: torch.nn.Module, image: Tensor) -> Tensor:
    """Run the teacher without gradients."""
    with torch.no_grad():
        return teacher(image)
