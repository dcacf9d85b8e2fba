"""Small made data, shared by the tests that enter by the user's door."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from kd_lightning.__main__ import main
from kd_lightning.data import CIFAR10DataModule

TRAIN_IMAGES, TEST_IMAGES = 200, 50


def in_a_process_of_its_own(words: list[str]) -> int:
    """The status that it ends with; minus the number of the signal that killed it."""
    child = os.fork()
    if not child:
        status = 99
        try:
            status = main(words)
        except SystemExit as ended:
            status = int(ended.code or 0)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_mnist(root: Path, train: int = TRAIN_IMAGES, test: int = TEST_IMAGES) -> Path:
    """Write a torchvision root with made images: class c is a bright block at a place of its own, with noise."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, size in (("train", train), ("t10k", test)):
        label = np.arange(size, dtype=np.uint8) % 10
        image = random.integers(0, 60, (size, 28, 28), dtype=np.uint8)
        for i, c in enumerate(label):
            row, column = 4 + 8 * (c // 4), 2 + 6 * (c % 4)
            image[i, row : row + 6, column : column + 5] = 255
        header = np.array([0x803, size, 28, 28], dtype=">u4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + image.tobytes())
        header = np.array([0x801, size], dtype=">u4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + label.tobytes())
    return root


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, a_file: int = 20) -> Path:
    """Write a torchvision root with made images of 32x32 colour pixels: class c is bright in its own block.

    torchvision compares checksums with those of the real files; for the test it is told those of the made ones.
    """
    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)

    def write(name: str, content: dict[str, Any]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def part(name: str) -> list[str]:
        label = np.arange(a_file) % 10
        image = random.integers(0, 60, (a_file, 3, 32, 32), dtype=np.uint8)
        for i, c in enumerate(label):
            row, column = 2 + 10 * (c // 4), 8 * (c % 4)
            image[i, c % 3, row : row + 8, column : column + 8] = 255
        return write(name, {"data": image.reshape(a_file, -1), "labels": label.tolist()})

    monkeypatch.setattr(CIFAR10, "train_list", [part(f"data_batch_{i}") for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [part("test_batch")])
    names = list(CIFAR10DataModule.class_names)
    meta, checksum = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": meta, "key": "label_names", "md5": checksum})
    return root


def write_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch, train: int = 200, test: int = 50) -> Path:
    """Write a torchvision root with made images of 32x32 colour pixels, all noise, of a hundred classes."""
    folder = root / CIFAR100.base_folder
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)

    def write(name: str, content: dict[str, Any]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    for part, size in (("train", train), ("test", test)):
        label = [number % 100 for number in range(size)]
        image = random.integers(0, 256, (size, 3 * 32 * 32), dtype=np.uint8)
        monkeypatch.setattr(CIFAR100, f"{part}_list", [write(part, {"data": image, "fine_labels": label})])
    meta = write("meta", {"fine_label_names": [f"class {number:02}" for number in range(100)]})
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": meta[1]})
    return root


def write_dogs_vs_cats(root: Path, count: int = 20) -> Path:
    """Write Kaggle's flat folder with made photographs: cats dark, dogs bright."""
    folder = root / "train"
    folder.mkdir(parents=True)
    for c, name in enumerate(("cat", "dog")):
        for i in range(count):
            Image.new("RGB", (40, 30), (100 * c + i,) * 3).save(folder / f"{name}.{i}.jpg")
    return root
