"""Small made data, shared by the tests that enter by the user's door."""

from pathlib import Path

import numpy as np

TRAIN_IMAGES, TEST_IMAGES = 200, 50


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
