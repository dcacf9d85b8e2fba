"""How fast jittered batches of MNIST come, where no network keeps them waiting."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.made import RandomMNIST
from benchmarks.turns import OURS, Benchmark
from kd_lightning.data import Shift

IMAGES, BATCH = 60_000, 128
MICROSECONDS = 1e6


def benchmark(folder: Path, images: int | None) -> Benchmark:
    """Prepare it, with fewer images where so many are asked for."""
    data = RandomMNIST(images or IMAGES, batch_size=BATCH, views=Shift(2))
    data.setup("fit")
    # What the loader and the hook ask of a trainer, and no more of one.
    trainer: Any = SimpleNamespace(
        world_size=1, global_rank=0, training=True, testing=False, predicting=False, current_epoch=0
    )
    data.trainer = trainer

    def turn() -> float:
        begin, batches = time.perf_counter(), 0
        for indices in data.train_dataloader():
            data.on_after_batch_transfer(indices, 0)
            batches += 1
        return (time.perf_counter() - begin) / batches * MICROSECONDS

    return Benchmark("a jittered batch of 128, on its way to a network", "µs", {OURS: turn}, ours_at_most=1e6 / 3000)
