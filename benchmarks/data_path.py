"""Measure the time of a jittered batch of MNIST without a network."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.measure import OURS, Benchmark
from benchmarks.random_data import RandomMNIST
from kd_lightning.data import Shift

IMAGES, BATCH = 60_000, 128
MICROSECONDS = 1e6


def benchmark(folder: Path, images: int | None) -> Benchmark:
    """Prepare the benchmark, with `images` training images."""
    data = RandomMNIST(images or IMAGES, batch_size=BATCH, views=Shift(2))
    data.setup("fit")
    # The attributes of a trainer that the loader and the hook read.
    trainer: Any = SimpleNamespace(
        world_size=1, global_rank=0, training=True, testing=False, predicting=False, current_epoch=0
    )
    data.trainer = trainer

    def run() -> float:
        begin, batches = time.perf_counter(), 0
        for indices in data.train_dataloader():
            data.on_after_batch_transfer(indices, 0)
            batches += 1
        return (time.perf_counter() - begin) / batches * MICROSECONDS

    return Benchmark("a jittered batch of 128, without a network", "µs", {OURS: run}, our_aim=1e6 / 3000)
