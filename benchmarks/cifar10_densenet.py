"""`cifar10_densenet`: an epoch of distillation at 128x128, against labels alone and the source's loop."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.loops import divergence, plain_loop, teacher_logits
from benchmarks.measure import OURS, Benchmark, Contender
from benchmarks.ours import one_epoch, save_untrained
from benchmarks.random_data import TorchvisionCIFAR10
from kd_lightning.models import SmallCNN, densenet121

IMAGES, BATCH, SIDE = 10_000, 100, 128
TEMPERATURE, HARD, SOFT = 5.0, 0.5, 0.5
STEPS = 5
"""Steps of the source's loop that are timed; all of them would take most of an hour on a CPU."""


def benchmark(folder: Path, images: int | None) -> Benchmark:
    """Prepare the benchmark, with files in `folder` and `images` training images."""
    images = images or IMAGES
    teacher = densenet121(weights=None).eval()
    teacher_file = save_untrained(teacher, folder)
    data = ("--data=benchmarks.random_data.RandomCIFAR10", f"--data.images={images}")
    return Benchmark(
        f"cifar10_densenet: an epoch of distillation, 10,000 images at 128x128 (the source's from {STEPS} steps)",
        "s",
        {
            OURS: one_epoch(
                "cifar10_densenet/distill.yaml",
                folder,
                *data,
                f"--model.teacher_ckpt={teacher_file}",
            ),
            "ours, labels alone": one_epoch("cifar10_densenet/baseline.yaml", folder, *data),
            "source's loop": _source(teacher, images),
        },
        {"ours, labels alone": 1.15},
    )


def _source(teacher: torch.nn.Module, images: int) -> Contender:
    """The source's loop: every image resized by itself, float32, a teacher forward pass at every step."""
    transform = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])
    loader: DataLoader[Any] = DataLoader(TorchvisionCIFAR10(images, transform), batch_size=BATCH, shuffle=True)
    student = SmallCNN().to(memory_format=torch.contiguous_format)

    def loss(image: Tensor, label: Tensor) -> Tensor:
        logits = student(image)
        soft = divergence(logits, teacher_logits(teacher, image), TEMPERATURE) * TEMPERATURE**2 / logits.shape[1]
        return SOFT * soft + HARD * F.cross_entropy(logits, label)

    return plain_loop(loader, loss, torch.optim.Adam(student.parameters(), 1e-3, amsgrad=True), STEPS)
