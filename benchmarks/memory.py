"""How much memory the training of a jittered student of MNIST takes at most, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.mnist_hinton import WIDTHS, jittered
from benchmarks.ours import untrained
from benchmarks.turns import OURS, Benchmark
from kd_lightning.models import MLP

IMAGES = 60_000

UNIT = 1024 if sys.platform == "linux" else 1
"""Bytes: what the system counts a process's memory in."""

CHILD = """
import resource, sys
from kd_lightning.__main__ import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


def benchmark(folder: Path, images: int | None) -> Benchmark:
    """Prepare it, in a folder, with fewer images where so many are asked for."""
    words = [
        "fit",
        "--config=configs/mnist_hinton/distill_jittered.yaml",
        *jittered(images or IMAGES),
        f"--model.teacher_ckpt={untrained(MLP(WIDTHS), folder)}",
        f"--threads={torch.get_num_threads()}",
        "--trainer.max_epochs=2",
        f"--trainer.logger.save_dir={folder}",
    ]

    def turn() -> float:
        child = subprocess.run([sys.executable, "-c", CHILD, *words], check=True, stdout=subprocess.PIPE, text=True)
        return int(child.stdout.split()[-1]) * UNIT / 1e9

    return Benchmark(
        "mnist_hinton: memory that two epochs of the jittered student take at most, with all libraries",
        "GB",
        {OURS: turn},
        ours_at_most=1.2,
    )
