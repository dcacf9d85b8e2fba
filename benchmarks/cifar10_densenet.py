"""Recipe D: an epoch of distillation at 128x128, against the student's own epoch and the source's loop."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.loops import answers_of, divergence, plain_loop
from benchmarks.made import TorchvisionCIFAR10
from benchmarks.ours import one_epoch, untrained
from benchmarks.turns import OURS, Benchmark, Turn
from kd_lightning.models import SmallCNN, densenet121

IMAGES, BATCH, SIDE = 10_000, 100, 128
TEMPERATURE, HARD, SOFT = 5.0, 0.5, 0.5
STEPS = 5
"""Of the source's that are timed on a CPU, where all of them would take the better part of an hour."""


def benchmark(folder: Path, images: int | None) -> Benchmark:
    """Prepare it, in a folder, with fewer images where so many are asked for."""
    images = images or IMAGES
    teacher = densenet121(weights=None).eval()
    data = ("--data=benchmarks.made.RandomCIFAR10", f"--data.images={images}")
    return Benchmark(
        f"cifar10_densenet: an epoch of distillation, 10,000 images at 128x128 (the source's from {STEPS} steps)",
        "s",
        {
            OURS: one_epoch(
                "cifar10_densenet/distill.yaml", folder, *data, f"--model.teacher_ckpt={untrained(teacher, folder)}"
            ),
            "ours, labels alone": one_epoch("cifar10_densenet/baseline.yaml", folder, *data),
            "source's loop": _source(teacher, images),
        },
        {"ours, labels alone": 1.15},
    )


def _source(teacher: torch.nn.Module, images: int) -> Turn:
    """The source's: every image resized by itself, float32, the teacher asked at every step."""
    transform = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])
    loader: DataLoader[Any] = DataLoader(TorchvisionCIFAR10(images, transform), batch_size=BATCH, shuffle=True)
    student = SmallCNN().to(memory_format=torch.contiguous_format)

    def loss(image: Tensor, label: Tensor) -> Tensor:
        told = answers_of(teacher, image)
        logits = student(image)
        soft = divergence(logits, told, TEMPERATURE) * TEMPERATURE**2 / logits.shape[1]
        return SOFT * soft + HARD * F.cross_entropy(logits, label)

    return plain_loop(loader, loss, torch.optim.Adam(student.parameters(), 1e-3, amsgrad=True), STEPS)
