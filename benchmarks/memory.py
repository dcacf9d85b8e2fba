"""Measure the peak memory of training a jittered student of MNIST, in a separate process."""

import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.measure import OURS, Benchmark
from benchmarks.mnist_hinton import WIDTHS, jittered
from benchmarks.ours import save_untrained
from kd_lightning.models import MLP

IMAGES = 60_000

UNIT = 1024 if sys.platform == "linux" else 1
"""Bytes per unit of `ru_maxrss`."""

CHILD = """
import resource, sys
from kd_lightning.__main__ import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


def benchmark(folder: Path, images: int | None) -> Benchmark:
    """Prepare the benchmark, with files in `folder` and `images` training images."""
    words = [
        "fit",
        "--config=configs/mnist_hinton/distill_jittered.yaml",
        *jittered(images or IMAGES),
        f"--model.teacher_ckpt={save_untrained(MLP(WIDTHS), folder)}",
        f"--threads={torch.get_num_threads()}",
        "--trainer.max_epochs=2",
        f"--trainer.logger.save_dir={folder}",
    ]

    def run() -> float:
        child = subprocess.run([sys.executable, "-c", CHILD, *words], check=True, stdout=subprocess.PIPE, text=True)
        return int(child.stdout.split()[-1]) * UNIT / 1e9

    return Benchmark(
        "mnist_hinton: peak memory of two epochs of the jittered student, with all libraries",
        "GB",
        {OURS: run},
        our_aim=1.2,
    )
