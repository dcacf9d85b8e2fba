"""`mnist_hinton`: an epoch of 60,000 jittered images in batches of 128, of the teacher and of its student."""

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.loops import plain_loop
from benchmarks.measure import OURS, Benchmark, Contender
from benchmarks.ours import one_epoch, save_untrained
from benchmarks.random_data import RandomMNIST, TorchvisionMNIST, random_images
from kd_lightning.models import MLP

IMAGES, BATCH, SHIFT = 60_000, 128, 2
WIDTHS = [784, 1200, 1200, 10]
BF16 = "--trainer.precision=bf16-mixed"


def teacher(folder: Path, images: int | None) -> Benchmark:
    """Prepare the teacher's epoch."""
    images = images or IMAGES
    return Benchmark(
        "mnist_hinton: an epoch of the teacher, jittered, 60,000 images in batches of 128",
        "s",
        {
            OURS: one_epoch("mnist_hinton/teacher_published.yaml", folder, *jittered(images), BF16),
            "reproduction's loop": _reproduction(images, workers=0),
            "reproduction's loop, 2 workers": _reproduction(images, workers=2),
            "by hand, in memory, bf16": _by_hand(images),
        },
        {"reproduction's loop": 1 / 2.5, "reproduction's loop, 2 workers": 1 / 2.5},
    )


def distilled(folder: Path, images: int | None) -> Benchmark:
    """Prepare the student's epoch, with and without cached teacher logits."""
    config, teacher_file = "mnist_hinton/distill_jittered.yaml", save_untrained(MLP(WIDTHS), folder)
    words = (*jittered(images or IMAGES), f"--model.teacher_ckpt={teacher_file}")
    return Benchmark(
        "mnist_hinton: an epoch of the jittered student, 60,000 images in batches of 128",
        "s",
        {
            OURS: one_epoch(config, folder, *words, "--model.cache_teacher=all"),
            "ours, teacher forward pass at every step": one_epoch(
                config, folder, *words, "--model.cache_teacher=false"
            ),
        },
        {"ours, teacher forward pass at every step": 1 / 1.8},
    )


def jittered(images: int) -> tuple[str, ...]:
    """Return the options for jittered random images in the source's batches."""
    return (
        "--data=benchmarks.random_data.RandomMNIST",
        f"--data.images={images}",
        f"--data.batch_size={BATCH}",
        "--data.views=kd_lightning.data.Shift",
        f"--data.views.max_shift={SHIFT}",
    )


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(784, 1200),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(1200, 1200),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(1200, 10),
    )


def _reproduction(images: int, workers: int) -> Contender:
    """The reproduction's loop: each image jittered by itself, as a PIL image."""
    transform = transforms.Compose(
        [
            transforms.RandomAffine(0, translate=(SHIFT / 28, SHIFT / 28)),
            transforms.ToTensor(),
            transforms.Normalize((0.5,), (0.5,)),
        ]
    )
    loader: DataLoader[Any] = DataLoader(
        TorchvisionMNIST(images, transform), batch_size=BATCH, shuffle=True, num_workers=workers
    )
    network = _network()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9)
    return plain_loop(loader, lambda image, label: F.cross_entropy(network(image), label), optimizer)


def _by_hand(images: int) -> Contender:
    """A lean loop for this task alone: padded images in memory, each batch one gather, bfloat16."""
    part = random_images(images, RandomMNIST.image_shape)
    windows = F.pad(part.image.squeeze(1), (SHIFT,) * 4).unfold(1, 28, 1).unfold(2, 28, 1)
    network = _network()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, fused=True)

    def loss(rows: Tensor) -> Tensor:
        down, right = (torch.rand(2, len(rows)) * 2 * SHIFT).round().long()
        image = windows[rows, down, right].float().div_(127.5).sub_(1)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(image)
        return F.cross_entropy(logits.float(), part.label[rows])

    def run() -> float:
        begin = time.perf_counter()
        for rows in torch.randperm(images).split(BATCH):
            optimizer.zero_grad()
            loss(rows).backward()
            optimizer.step()
        return time.perf_counter() - begin

    return run
