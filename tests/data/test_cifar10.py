from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from torchvision.datasets import cifar as torchvision_cifar
from torchvision.transforms.functional import pil_to_tensor, resize

from kd_lightning.data import CIFAR10DataModule, CropFlip
from kd_lightning.errors import UserError
from tests.made import write_cifar10

FOLDER = "cifar-10-batches-py"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise URLError("no route\nto host")

    monkeypatch.setattr(torchvision_cifar, "download_and_extract_archive", unreachable)
    return write_cifar10(tmp_path, monkeypatch)


def set_up(root: Path, stage: str = "fit", **kwargs: object) -> CIFAR10DataModule:
    data = CIFAR10DataModule(root=str(root), **kwargs)
    data.prepare_data()
    data.setup(stage)
    return data


def test_the_five_files_of_the_training_set_are_read_in_their_order(root: Path) -> None:
    image, label = set_up(root).load(train=True)
    assert (image.shape, image.dtype) == ((100, 3, 32, 32), torch.uint8)
    assert label.tolist() == [i % 20 % 10 for i in range(100)]
    assert image[3, 0, 2, 24] == 255  # class 3 is bright in the first channel of its block
    assert set_up(root, "test").load(train=False).image.shape == (20, 3, 32, 32)


def test_images_are_dealt_as_the_tutorial_normalises_them(root: Path) -> None:
    data = set_up(root)
    batch = data.make_batch(torch.tensor([4, 99]))
    raw = data.load(train=True).image[[4, 99]] / 255
    expected = (raw - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    torch.testing.assert_close(batch.image, expected)


@pytest.mark.parametrize("size", [128, 48, 20])
def test_another_size_is_pillows_bilinear_resize_of_the_original(root: Path, size: int) -> None:
    data = set_up(root, image_size=size, mean=[0.0], std=[1 / 255])
    assert data.image_shape == (3, size, size)
    batch = data.make_batch(torch.tensor([7]))
    original = data.load(train=True).image[7]
    expected = pil_to_tensor(resize(Image.fromarray(original.permute(1, 2, 0).numpy()), [size, size]))
    # Pillow rounds to whole grey levels, once an axis.
    torch.testing.assert_close(batch.image[0], expected.float(), rtol=0, atol=1.01)


def test_views_are_of_the_original_before_it_is_resized(root: Path) -> None:
    views = CropFlip(4)
    data = set_up(root, image_size=64, mean=[0.0], std=[1.0], views=views)
    whole = set_up(root, image_size=32, mean=[0.0], std=[1.0], views=views)
    index, view = torch.tensor([5, 5]), torch.tensor([1, 81])
    shown = whole.make_batch(index, view=view).image
    expected = torch.nn.functional.interpolate(shown, (64, 64), mode="bilinear", antialias=True)
    torch.testing.assert_close(data.make_batch(index, view=view).image, expected)


def test_absent_files_that_cannot_be_downloaded_are_named_with_their_folder(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        CIFAR10DataModule(root=str(tmp_path / "elsewhere")).prepare_data()
    message = str(caught.value)
    assert str(tmp_path / "elsewhere" / FOLDER) in message
    assert "--data.root" in message
    assert "\n" not in message


@pytest.mark.parametrize("keep", [0, 1000])
def test_a_damaged_file_is_a_one_line_error_that_names_the_folder(root: Path, keep: int) -> None:
    file = root / FOLDER / "data_batch_3"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError) as caught:
        set_up(root)
    assert f"cannot read the files in {root / FOLDER}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_of_no_pixels_is_refused() -> None:
    with pytest.raises(UserError, match="image_size: 0 found, at least 1 pixel expected"):
        CIFAR10DataModule(image_size=0)
