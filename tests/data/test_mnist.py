import socket
import time
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor
from torchvision.datasets import mnist as torchvision_mnist

from kd_lightning.data import MNISTDataModule
from kd_lightning.errors import UserError
from tests.made import write_mnist


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mnist(tmp_path, train=30, test=10)


def images_in(root: Path, part: str, size: int) -> Tensor:
    pixels = bytearray((root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte").read_bytes()[16:])
    return torch.frombuffer(pixels, dtype=torch.uint8).view(size, 1, 28, 28)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Nothing can be downloaded; the timeout under which each download was tried."""
    tried: list[float | None] = []

    def unreachable(*args: object, **kwargs: object) -> None:
        tried.append(socket.getdefaulttimeout())
        raise URLError("no route\nto host")

    monkeypatch.setattr(torchvision_mnist, "download_and_extract_archive", unreachable)
    return tried


def cut(root: Path, name: str, size: int) -> Path:
    path = root / "MNIST" / "raw" / name
    path.write_bytes(path.read_bytes()[:size])
    return path.parent


def test_files_that_are_there_are_read_and_nothing_is_downloaded(root: Path, downloads: list[float | None]) -> None:
    data = MNISTDataModule(root=str(root))
    data.prepare_data()
    assert downloads == []
    for part, train, size in (("train", True, 30), ("t10k", False, 10)):
        image, label = data.load(train)
        assert torch.equal(image, images_in(root, part, size))
        assert label.tolist() == [i % 10 for i in range(size)]
        assert (image.dtype, label.dtype) == (torch.uint8, torch.int64)


def test_a_made_mnist_is_dealt_normalised(root: Path) -> None:
    data = MNISTDataModule(root=str(root), omit_classes=[3])
    data.setup("fit")
    batch = data.make_batch(torch.tensor([4, 29]))
    assert batch.label.tolist() == [4, 9]
    assert len(data.train_positions) == 27
    expected = (images_in(root, "train", 30)[[4, 29]] / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(batch.image, expected)


def test_absent_files_that_cannot_be_downloaded_are_named_with_their_folder(
    tmp_path: Path, downloads: list[float | None]
) -> None:
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        MNISTDataModule(root=str(tmp_path)).prepare_data()
    message = str(caught.value)
    assert str(tmp_path / "MNIST" / "raw") in message
    assert "--data.root" in message
    assert "\n" not in message
    assert time.perf_counter() - start < 5  # as soon as the mirrors are known to be out of reach


def test_the_patience_with_a_mirror_is_short_and_nobody_elses(tmp_path: Path, downloads: list[float | None]) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(33.0)
    try:
        with pytest.raises(UserError):
            MNISTDataModule(root=str(tmp_path)).prepare_data()
        assert socket.getdefaulttimeout() == 33.0
    finally:
        socket.setdefaulttimeout(before)
    assert set(downloads) == {10.0}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("train-images-idx3-ubyte", 5000),  # in the midst of the pixels
        ("train-images-idx3-ubyte", 16),  # after the header
        ("train-labels-idx1-ubyte", 20),
        ("train-labels-idx1-ubyte", 0),
    ],
)
def test_a_truncated_file_is_a_one_line_error_that_names_the_folder(root: Path, name: str, size: int) -> None:
    folder = cut(root, name, size)
    data = MNISTDataModule(root=str(root))
    data.prepare_data()  # the files are there: what is in them is for `setup` to say
    with pytest.raises(UserError) as caught:
        data.setup("fit")
    assert f"cannot read the files in {folder}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_test_file_does_not_stop_training(root: Path, downloads: list[float | None]) -> None:
    folder = cut(root, "t10k-images-idx3-ubyte", 100)
    data = MNISTDataModule(root=str(root))
    data.prepare_data()
    data.setup("fit")
    assert data.train_count == 30
    with pytest.raises(UserError, match=str(folder)):
        data.setup("test")


def test_images_and_labels_of_different_numbers_are_refused(tmp_path: Path) -> None:
    root = write_mnist(tmp_path, train=30, test=10)
    labels = root / "MNIST/raw/train-labels-idx1-ubyte"
    labels.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 29]) + labels.read_bytes()[8:37])
    with pytest.raises(UserError, match="training labels: 29 found, 30 expected"):
        MNISTDataModule(root=str(root)).setup("fit")
