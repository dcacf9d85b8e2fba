"""Measure the loading of photographs augmented by RandAugment at 224 px, with two loader workers, without a network."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import write_jpeg
from torchvision.transforms import v2

from benchmarks.measure import OURS, Benchmark
from kd_lightning.data import ImageFolderDataModule, RandomViews

IMAGES, STORED, SIDE, BATCH, WORKERS = 1000, 256, 224, 64, 2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DATALOADER = "torchvision's ImageFolder and DataLoader"


def _transforms() -> list[Any]:
    return [v2.RandomResizedCrop(SIDE), v2.RandomHorizontalFlip(), v2.RandAugment()]


def benchmark(folder: Path, images: int | None) -> Benchmark:
    """Prepare the benchmark, with `images` photographs."""
    count = images or IMAGES
    _write_photographs(folder / "images", count)
    kept, streamed = (_ours(folder, limit) for limit in (16.0, 0.0))
    plain = ImageFolder(
        folder / "images" / "train",
        v2.Compose([*_transforms(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]),
    )
    loader = DataLoader(plain, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    return Benchmark(
        f"1,000 photographs at {SIDE} px by RandAugment, {WORKERS} workers, without a network",
        "s",
        {
            OURS: _per_thousand(kept, count),
            "ours, decoding in every epoch": _per_thousand(streamed, count),
            DATALOADER: _per_thousand(lambda: loader, count),
        },
        {DATALOADER: 1.0},
    )


def _per_thousand(batches: Callable[[], Any], images: int) -> Callable[[], float]:
    """Return a contender: seconds for a thousand images of an epoch whose workers are running."""
    for _ in batches():  # starts the workers
        pass

    def run() -> float:
        begin = time.perf_counter()
        for _ in batches():
            pass
        return (time.perf_counter() - begin) / images * 1000

    return run


def _ours(folder: Path, cache_limit: float) -> Callable[[], Any]:
    data = ImageFolderDataModule(
        str(folder / "images"),
        image_size=SIDE,
        stored_size=STORED,
        views=RandomViews(_transforms()),
        batch_size=BATCH,
        num_workers=WORKERS,
        cache_dir=str(folder / "decoded"),
        cache_limit=cache_limit,
    )
    data.prepare_data()
    data.setup("fit")
    # The attributes of a trainer that the loader and the hook read.
    trainer: Any = SimpleNamespace(
        world_size=1, global_rank=0, training=True, testing=False, predicting=False, current_epoch=0
    )
    data.trainer = trainer
    loader = data.train_dataloader()
    return lambda: (data.on_after_batch_transfer(batch, 0) for batch in loader)


def _write_photographs(folder: Path, count: int) -> None:
    """Write smooth random images, which take as long to decode as photographs, in two classes."""
    generator = torch.Generator().manual_seed(0)
    for part, images in (("train", count), ("test", 2)):
        for number in range(images):
            coarse = torch.rand(1, 3, 32, 32, generator=generator)
            fine = torch.nn.functional.interpolate(coarse, (STORED, STORED), mode="bicubic")[0]
            image = (fine * 255 + 8 * torch.randn(3, STORED, STORED, generator=generator)).clamp(0, 255).byte()
            place = folder / part / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            write_jpeg(image, str(place / f"{number}.jpg"), quality=90)
