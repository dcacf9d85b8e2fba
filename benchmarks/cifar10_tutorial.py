"""`cifar10_tutorial`: ten epochs of distillation with an empty logit cache, against the tutorial's loop."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.loops import divergence, plain_loop, teacher_logits
from benchmarks.measure import OURS, Benchmark, Contender
from benchmarks.ours import save_untrained, whole_fit
from benchmarks.random_data import TorchvisionCIFAR10
from kd_lightning.models import DeepNN, LightNN

IMAGES, BATCH, EPOCHS = 50_000, 128, 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEMPERATURE, HARD, SOFT = 2.0, 0.75, 0.25
STEPS = 30
"""Steps of the tutorial's loop that are timed; all of them would take half an hour on a CPU."""


def benchmark(folder: Path, images: int | None) -> Benchmark:
    """Prepare the benchmark, with files in `folder` and `images` training images."""
    images = images or IMAGES
    teacher = DeepNN().eval()
    return Benchmark(
        f"cifar10_tutorial: ten epochs of distillation (the tutorial's extrapolated from {STEPS} steps)",
        "s",
        {
            OURS: whole_fit(
                "cifar10_tutorial/distill.yaml",
                folder,
                lambda run: save_untrained(teacher, run),
                "--data=benchmarks.random_data.RandomCIFAR10",
                f"--data.images={images}",
            ),
            "tutorial's loop, 2 workers": _tutorial(teacher, images),
        },
        {"tutorial's loop, 2 workers": 1 / 8},
    )


def _tutorial(teacher: torch.nn.Module, images: int) -> Contender:
    """The tutorial's loop: float32, a teacher forward pass at every step."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    dataset = TorchvisionCIFAR10(images, transform)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=2)
    student = LightNN().to(memory_format=torch.contiguous_format)

    def loss(image: Tensor, label: Tensor) -> Tensor:
        logits = student(image)
        soft = divergence(logits, teacher_logits(teacher, image), TEMPERATURE) * TEMPERATURE**2
        return SOFT * soft + HARD * F.cross_entropy(logits, label)

    epoch = plain_loop(loader, loss, torch.optim.Adam(student.parameters(), 1e-3), STEPS)
    return lambda: EPOCHS * epoch()
