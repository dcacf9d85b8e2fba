import io
import os
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from kd_lightning.data import DogsVsCatsDataModule
from kd_lightning.errors import UserError
from kd_lightning.utils import atomic_write as whole

COUNT = 10


def photograph(level: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (30, 20), (level, level, level)).save(content, "JPEG")
    return content.getvalue()


def photographs() -> dict[str, bytes]:
    """Cat i is of grey level 10 i, dog i of 10 i + 100."""
    return {
        f"{name}.{i}.jpg": photograph(10 * i + 100 * c) for c, name in enumerate(("cat", "dog")) for i in range(COUNT)
    }


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    for name, data in photographs().items():
        (tmp_path / "train" / name).write_bytes(data)
    (tmp_path / "train" / "Thumbs.db").write_text("")
    return tmp_path


@pytest.fixture
def inner() -> bytes:
    return zipped({"train/": b"", **{f"train/{name}": data for name, data in photographs().items()}})


def set_up(root: Path) -> DogsVsCatsDataModule:
    data = DogsVsCatsDataModule(str(root), image_size=8, mean=[0.0], std=[1 / 255])
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def levels(data: DogsVsCatsDataModule) -> list[int]:
    train = data.make_batch(torch.cat([data.train_positions, data.val_positions]))
    test = data.make_batch(torch.arange(2), train=False)
    image, label = torch.cat([train.image, test.image]), torch.cat([train.label, test.label])
    level = (image[:, 0, 4, 4] / 10).round().int()
    assert label.tolist() == [int(value >= 10) for value in level]
    return sorted(level.tolist())


def test_the_flat_folder_is_split_as_the_source_does(flat: Path) -> None:
    data = set_up(flat)
    assert (len(data.train_positions), len(data.val_positions)) == (14, 4)
    assert sorted(data.make_batch(torch.arange(2), train=False).label.tolist()) == [0, 1]
    assert levels(data) == list(range(20))
    assert data.image_shape == (3, 8, 8)


@pytest.mark.parametrize("nested", [True, False])
def test_kaggles_archive_is_unpacked_whether_the_inner_one_was_taken_out_or_not(
    tmp_path: Path, inner: bytes, nested: bool
) -> None:
    if nested:
        content = zipped({"sampleSubmission.csv": b"id,label", "test1.zip": zipped({}), "train.zip": inner})
        (tmp_path / "dogs-vs-cats.zip").write_bytes(content)
    else:
        (tmp_path / "train.zip").write_bytes(inner)
    assert levels(set_up(tmp_path)) == list(range(20))
    assert len(list((tmp_path / "train").iterdir())) == 20


@pytest.mark.parametrize("keep", [0, 100, -30])
def test_an_archive_that_was_cut_short_leaves_nothing_behind(tmp_path: Path, inner: bytes, keep: int) -> None:
    (tmp_path / "train.zip").write_bytes(inner[:keep])
    with pytest.raises(UserError) as caught:
        set_up(tmp_path)
    assert f"{tmp_path / 'train.zip'} cannot be unpacked" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["train.zip"]


@pytest.mark.parametrize("nested", [True, False])
def test_an_archive_of_many_entries_has_a_total(tmp_path: Path, nested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd_lightning.data.dogs_vs_cats.BASE_BYTES", 2**16)
    zeros = zipped({f"train/cat.{i}.jpg": bytes(2**16) for i in range(30)})
    (tmp_path / "train.zip").write_bytes(zeros)
    if nested:
        (tmp_path / "train.zip").unlink()
        (tmp_path / "dogs-vs-cats.zip").write_bytes(zipped({"train.zip": zeros}))
    with pytest.raises(UserError, match=r"unpacks to 1966080 bytes, at most \d+ expected of its size"):
        set_up(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_names_in_an_archive_lead_nowhere_else(tmp_path: Path) -> None:
    files = {"../cat.1.jpg": b"", "/dog.1.jpg": b"", "train/../../cat.2.jpg": b"", **photographs()}
    root = tmp_path / "below"
    root.mkdir()
    (root / "train.zip").write_bytes(zipped(files))
    set_up(root)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["below"]
    assert len(list((root / "train").iterdir())) == 20


def test_neither_photographs_nor_archive_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither train/ nor train\.zip nor dogs-vs-cats\.zip in") as caught:
        set_up(tmp_path)
    assert str(tmp_path) in str(caught.value)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "cat.0.jpg").write_bytes(photograph(0))
    with pytest.raises(UserError, match="not found in"):
        set_up(tmp_path)


def test_an_archive_without_photographs_leaves_room_for_the_right_one(tmp_path: Path, inner: bytes) -> None:
    (tmp_path / "train.zip").write_bytes(zipped({"PetImages/Cat/0.jpg": photograph(0)}))
    with pytest.raises(UserError, match=r"no cat.0.jpg, dog.0.jpg and so on in .*train.zip"):
        set_up(tmp_path)
    (tmp_path / "train.zip").write_bytes(inner)
    assert len(levels(set_up(tmp_path))) > 0


def test_an_archive_with_a_password_is_one_line(tmp_path: Path, inner: bytes) -> None:
    locked = bytearray(inner)
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = locked.find(header)
        while start >= 0:
            locked[start + flags] |= 1
            start = locked.find(header, start + 4)
    (tmp_path / "train.zip").write_bytes(locked)
    with pytest.raises(UserError, match=r"cannot be unpacked \(.*password[^;]*$"):
        set_up(tmp_path)
    assert not (tmp_path / "train").exists()


def test_what_a_killed_unpacking_left_is_removed_by_the_next(tmp_path: Path, inner: bytes) -> None:
    (tmp_path / "train.zip").write_bytes(inner)
    left = tmp_path / f"{whole._prefix('train')}abc"
    left.mkdir()
    os.utime(left, (0, 0))
    set_up(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["train", "train.zip"]


def test_its_classes_are_two_and_none_is_left_out(flat: Path) -> None:
    with pytest.raises(UserError, match="leave_out_classes: found, but DogsVsCatsDataModule has a fixed list"):
        DogsVsCatsDataModule(str(flat), leave_out_classes=["cat"])


def test_kaggle_s_own_test_images_are_unlabelled(flat: Path) -> None:
    (flat / "test1").mkdir()
    for i in range(3):
        (flat / "test1" / f"{i}.jpg").write_bytes(photograph(250))
    data = DogsVsCatsDataModule(str(flat), image_size=8, unlabelled=str(flat / "test1"))
    data.prepare_data()
    data.setup("fit")
    assert data.make_batch(data.train_positions).label.add(1).bincount().tolist() == [3, 7, 7]


@pytest.mark.parametrize("option", ["classes", "leave_out_classes"])
def test_the_classes_are_fixed(flat: Path, option: str) -> None:
    with pytest.raises(UserError, match=f"{option}: found, but DogsVsCatsDataModule has a fixed list of classes"):
        DogsVsCatsDataModule(str(flat), **{option: ["cat", "dog"]})
