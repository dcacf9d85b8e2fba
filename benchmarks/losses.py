"""Measure a training step of `LightNN` with each loss on logits, the teacher's logits given."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import OURS, Benchmark
from kd_lightning.batch import Batch
from kd_lightning.losses import (
    DISTLoss,
    DKDLoss,
    NKDLoss,
    jensen_shannon_loss,
    logit_mse_loss,
    reverse_kl_loss,
    soft_target_loss,
    ttm_loss,
    wttm_loss,
)
from kd_lightning.models import LightNN
from kd_lightning.modules import DistillModule

BATCH, STEPS = 128, 50

KD, COSTLIEST = "KD", "DKD"
"""What the others are compared with, and the loss that takes most time by itself."""

OPTIONS: dict[str, dict[str, Any]] = {
    KD: {"soft_loss": soft_target_loss},
    "KD, standardised logits": {"soft_loss": soft_target_loss, "standardise_logits": True},
    "DKD": {"soft_loss": DKDLoss()},
    "NKD": {"soft_loss": NKDLoss()},
    "DIST": {"soft_loss": DISTLoss()},
    "TTM": {"soft_loss": ttm_loss},
    "WTTM": {"soft_loss": wttm_loss},
    "reverse KL": {"soft_loss": reverse_kl_loss},
    "Jensen-Shannon": {"soft_loss": jensen_shannon_loss},
    "MSE": {"soft_loss": logit_mse_loss},
}


class _Cached(DistillModule):
    """A student whose teacher's logits are given."""

    def teacher_outputs(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits (B, 10), and no layers."""
        return batch.image[:, 0, 0, :10], {}


def benchmark(folder: Path, images: int | None) -> Benchmark:
    """Prepare the benchmark; of `images`, each step has at most 128."""
    size = min(images or BATCH, BATCH)
    batch = Batch(
        torch.randn(size, 3, 32, 32).to(memory_format=torch.channels_last),
        torch.arange(size) % 10,
        torch.arange(size),
        torch.zeros(size, dtype=torch.long),
    )
    steps = {name: _step(options, batch) for name, options in OPTIONS.items()}
    each = {name: partial(_milliseconds, step) for name, step in steps.items()}
    costliest = each.pop(COSTLIEST)
    return Benchmark(
        f"a training step of LightNN on {size} images with given teacher's logits: {COSTLIEST} against KD",
        "ms",
        {OURS: costliest, **each},
        {KD: 1.03},
    )


def _step(options: dict[str, Any], batch: Batch) -> Callable[[], None]:
    torch.manual_seed(0)
    module = _Cached(LightNN().to(memory_format=torch.channels_last), nn.Linear(1, 1), **options)
    optimizer = torch.optim.AdamW(module.net.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = module.shared_step(batch).losses["loss"]
        loss.backward()
        optimizer.step()

    return step


def _milliseconds(step: Callable[[], None]) -> float:
    """Return the median time of `STEPS` steps."""
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return median(times) * 1000
