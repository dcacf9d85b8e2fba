"""`mnist_transfer`: an epoch of distillation on 10,000 images in batches of 32, and a sweep of 32 students."""

import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.loops import divergence, plain_loop, teacher_logits
from benchmarks.measure import OURS, Benchmark, Contender
from benchmarks.ours import one_epoch, save_untrained
from benchmarks.random_data import RandomMNIST, TorchvisionMNIST, random_images
from kd_lightning.cli.arguments import STACK_SIZE
from kd_lightning.models import MLP

IMAGES, BATCH = 10_000, 32
MEAN, STD = 0.1307, 0.3081
SMALL, LARGE = [784, 200, 200, 10], [784, 800, 800, 10]
TEMPERATURE, HARD, SOFT = 3.0, 0.2, 0.8
STUDENTS = 32
"""Students of the sweep."""


def benchmark(folder: Path, images: int | None) -> Benchmark:
    """Prepare the benchmark, with files in `folder` and `images` training images."""
    images = images or IMAGES
    teacher = MLP(LARGE).eval()
    return Benchmark(
        "mnist_transfer: an epoch of distillation, 10,000 images in batches of 32",
        "s",
        {
            OURS: one_epoch("mnist_transfer/distill.yaml", folder, *_options(teacher, folder, images)),
            "notebook's loop": _notebook(teacher, images, workers=0),
            "notebook's loop, 4 workers": _notebook(teacher, images, workers=4),
            "by hand, in memory": _by_hand(teacher, images),
        },
        {"notebook's loop": 1 / 4, "notebook's loop, 4 workers": 1 / 4, "by hand, in memory": 1.4},
    )


def sweep(folder: Path, images: int | None) -> Benchmark:
    """Prepare the sweep: 32 stacked students, in stacks of the default size, against one after another."""
    images = images or IMAGES
    options = _options(MLP(LARGE), folder, images)
    network = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": SMALL}}
    members = [[TEMPERATURE, SOFT / TEMPERATURE**2, seed] for seed in range(STACK_SIZE)]
    stack = {"net": network, "hard_weight": HARD, "members": members, "steps_at_once": 16}
    teacher = {"teacher": {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": LARGE}}}
    config = folder / "population.yaml"
    model = {"class_path": "kd_lightning.modules.PopulationModule", "init_args": {**stack, **teacher}}
    logger = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": str(folder)}}
    config.write_text(json.dumps({"model": model, "trainer": {"logger": logger}}))
    at_once = one_epoch(str(config), folder, *options, "--data.shuffle=false", f"--data.batch_size={BATCH}")
    alone = one_epoch("mnist_transfer/distill.yaml", folder, *options)
    return Benchmark(
        f"mnist_transfer: an epoch of 32 students (extrapolated from a stack of {STACK_SIZE}, and from one student)",
        "s",
        {OURS: lambda: STUDENTS / STACK_SIZE * at_once(), "ours, one after another": lambda: STUDENTS * alone()},
        {"ours, one after another": 1 / 3},
    )


def _options(teacher: nn.Module, folder: Path, images: int) -> tuple[str, ...]:
    return (
        "--data=benchmarks.random_data.RandomMNIST",
        f"--data.images={images}",
        f"--data.train_size={images}",
        f"--model.teacher_ckpt={save_untrained(teacher, folder)}",
    )


def _student() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)
    )


def _notebook(teacher: nn.Module, images: int, workers: int) -> Contender:
    """The course notebook's loop: images one by one through torchvision, a teacher forward pass at every step."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    loader: DataLoader[Any] = DataLoader(TorchvisionMNIST(images, transform), batch_size=BATCH, num_workers=workers)
    student = _student()

    def loss(image: Tensor, label: Tensor) -> Tensor:
        logits = student(image)
        soft = divergence(logits, teacher_logits(teacher, image), TEMPERATURE)
        return HARD * F.cross_entropy(logits, label) + SOFT * soft

    return plain_loop(loader, loss, torch.optim.Adam(student.parameters(), 1e-3))


def _by_hand(teacher: nn.Module, images: int) -> Contender:
    """A lean loop for this task alone: normalised images and teacher outputs in memory, nothing logged."""
    part = random_images(images, RandomMNIST.image_shape)
    image, label = ((part.image / 255 - MEAN) / STD).flatten(1), part.label
    soft = F.softmax(teacher_logits(teacher, image) / TEMPERATURE, dim=-1)
    student = _student()
    optimizer = torch.optim.Adam(student.parameters(), 1e-3, fused=True)

    def run() -> float:
        begin = time.perf_counter()
        for start in range(0, images, BATCH):
            rows = slice(start, start + BATCH)
            logits = student(image[rows])
            soft_loss = F.kl_div(F.log_softmax(logits / TEMPERATURE, dim=-1), soft[rows], reduction="batchmean")
            loss = HARD * F.cross_entropy(logits, label[rows]) + SOFT * soft_loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - begin

    return run
