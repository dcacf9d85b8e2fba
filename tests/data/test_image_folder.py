import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, UnidentifiedImageError
from torchvision.datasets import ImageFolder

from kd_lightning.data import CropFlip, ImageFolderDataModule, decode, image_cache
from kd_lightning.errors import UserError
from kd_lightning.utils import atomic_write as whole
from tests.data.made import trainer_in


def write(file: Path, colour: object, size: tuple[int, int] = (12, 12), mode: str = "RGB") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(file)
    return file


def write_tree(folder: Path, count: int = 10, classes: tuple[str, ...] = ("ant", "bee", "cow"), blue: int = 0) -> Path:
    """Image i of class c has colour (10 c, i, blue)."""
    for c, name in enumerate(classes):
        for i in range(count):
            write(folder / name / f"{i:02}.png", (10 * c, i, blue))
    return folder


@pytest.fixture
def split_tree(tmp_path: Path) -> Path:
    for blue, (part, count) in enumerate((("train", 6), ("val", 2), ("test", 3))):
        write_tree(tmp_path / "images" / part, count, blue=blue)  # no image is in two parts
    return tmp_path / "images"


def cache_of(root: Path) -> Path:
    """The folder in the user's cache that a tree's decoded images go to."""
    return ImageFolderDataModule(str(root))._cache_folder


def set_up(root: Path | list[Path], *stages: str, **options: object) -> ImageFolderDataModule:
    options = {"image_size": 12, "mean": [0.0], "std": [1 / 255], **options}  # a normalised pixel is its level
    data = ImageFolderDataModule([*map(str, root)] if isinstance(root, list) else str(root), **options)
    data.prepare_data()
    for stage in stages or ("fit", "test"):
        data.setup(stage)
    return data


def colours(data: ImageFolderDataModule, places: torch.Tensor, train: bool = True) -> list[tuple[int, int]]:
    """(label, number) of images, read off their pixels; each must be of the class that its colour says."""
    batch = data.make_batch(places, train=train)
    red, green = batch.image[:, 0, 5, 5].int().tolist(), batch.image[:, 1, 5, 5].int().tolist()
    assert batch.label.tolist() == [level // 10 for level in red]
    return list(zip(batch.label.tolist(), green, strict=True))


def message_of(root: Path | list[Path], **options: object) -> str:
    with pytest.raises(UserError) as caught:
        set_up(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_tree_that_is_split_keeps_its_parts(split_tree: Path) -> None:
    data = set_up(split_tree)
    assert (list(data.class_names), data.num_classes) == (["ant", "bee", "cow"], 3)
    assert sorted(colours(data, data.train_positions)) == [(c, i) for c in range(3) for i in range(6)]
    assert sorted(colours(data, data.val_positions)) == [(c, i) for c in range(3) for i in range(2)]
    test = colours(data, torch.arange(9), train=False)
    assert sorted(test) == [(c, i) for c in range(3) for i in range(3)]
    assert data.test_names == [f"test/{('ant', 'bee', 'cow')[c]}/{i:02}.png" for c, i in test]


def test_any_batch_of_the_test_holds_the_classes_in_proportion(split_tree: Path) -> None:
    # Batch norm that takes the batch's own statistics must not see one class alone.
    labels = [label for label, _ in colours(set_up(split_tree), torch.arange(9), train=False)]
    assert [sorted(labels[start : start + 3]) for start in (0, 3, 6)] == [[0, 1, 2]] * 3


def test_one_tree_is_split_by_fractions_stratified_and_seeded(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "images")
    data = set_up(root, split=(0.6, 0.1, 0.3))
    parts = [
        colours(data, data.train_positions),
        colours(data, data.val_positions),
        colours(data, torch.arange(9), train=False),
    ]
    assert sorted(pair for part in parts for pair in part) == [(c, i) for c in range(3) for i in range(10)]
    assert [[label for label, _ in part].count(1) for part in parts] == [6, 1, 3]
    again, other = set_up(root, split=(0.6, 0.1, 0.3)), set_up(root, split=(0.6, 0.1, 0.3), split_seed=1)
    assert colours(again, torch.arange(9), train=False) == parts[2]
    assert colours(other, torch.arange(9), train=False) != parts[2]


def test_the_first_training_images_hold_the_classes_in_proportion(split_tree: Path) -> None:
    data = set_up(split_tree, train_size=6)
    assert sorted(label for label, _ in colours(data, data.train_positions)) == [0, 0, 1, 1, 2, 2]


def test_without_a_folder_for_it_validation_is_held_out_by_size(split_tree: Path) -> None:
    for file in (split_tree / "val").rglob("*.png"):
        file.unlink()
    for folder in (*(split_tree / "val").iterdir(), split_tree / "val"):
        folder.rmdir()
    data = set_up(split_tree, val_size=3)
    assert [len(data.train_positions), len(data.val_positions)] == [15, 3]
    assert sorted(label for label, _ in colours(data, data.val_positions)) == [0, 1, 2]


def test_streamed_images_are_those_of_the_cache_in_every_part(split_tree: Path) -> None:
    views = CropFlip(2)
    kept, streamed = (set_up(split_tree, views=views, cache_limit=limit, batch_size=5) for limit in (1.0, 0.0))
    tried = list(cache_of(split_tree).glob("*-tried-*/images.bin"))
    assert [file.stat().st_size for file in tried] == [0, 0]  # nothing is kept, though all was tried
    assert len({kept.input_digest(), streamed.input_digest()}) == 2
    for data in (kept, streamed):
        data.trainer = trainer_in("training")
    for ours, theirs in zip(kept.train_dataloader(), streamed.train_dataloader(), strict=True):
        mine, other = kept.on_after_batch_transfer(ours, 0), streamed.on_after_batch_transfer(theirs, 0)
        assert all(torch.equal(a, b) for a, b in zip(mine[:4], other[:4], strict=True))
        assert mine.view.any()
    for train in (True, False):
        index = torch.tensor([0, 7, 3])
        assert torch.equal(kept.make_batch(index, train).image, streamed.make_batch(index, train).image)


def test_the_digest_of_streamed_images_is_that_of_their_files(split_tree: Path) -> None:
    def digest(**options: object) -> str:
        return set_up(split_tree, "fit", cache_limit=0.0, **options).input_digest()

    first = digest()
    assert (len(first), digest()) == (64, first)
    others = {digest(crop=False), digest(image_size=6), digest(views=CropFlip(2)), digest(split_seed=1)}
    file = split_tree / "train" / "ant" / "00.png"
    os.utime(file, ns=(0, 0))
    assert len({first, *others, digest()}) == 6


def test_loader_workers_stream_the_same_images(split_tree: Path) -> None:
    data, plain = (set_up(split_tree, cache_limit=0.0, num_workers=workers) for workers in (1, 0))
    for module in (data, plain):
        module.trainer = trainer_in("testing")
    (ours,), (theirs,) = list(data.test_dataloader()), list(plain.test_dataloader())
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_a_set_too_large_for_the_device_is_gathered_where_it_lies(
    split_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, index, view = CropFlip(2), torch.tensor([3, 11, 3]), torch.tensor([0, 8, 30])
    resident = set_up(split_tree, views=views).make_batch(index, view=view)
    monkeypatch.setattr("kd_lightning.data.batches.RESIDENT_BYTES", 100)
    mapped = set_up(split_tree, views=views)
    batch = mapped.make_batch(index, view=view)
    assert all(torch.equal(a, b) for a, b in zip(batch[:4], resident[:4], strict=True))
    assert not mapped._batch_makers[True]._on_device


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_workers_gather_what_is_too_large_for_the_device(
    split_tree: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def batches(workers: int) -> list[tuple[torch.Tensor, ...]]:
        data = set_up(split_tree, stage, views=CropFlip(2), num_workers=workers, batch_size=5, eval_batch_size=4)
        data.trainer = trainer_in("training" if stage == "fit" else "testing")
        dealt = []
        for batch in data.train_dataloader() if stage == "fit" else data.test_dataloader():
            with monkeypatch.context() as patch:
                if workers:  # in the main process nothing is gathered
                    patch.setattr("kd_lightning.data.batches.read", lambda part, index: pytest.fail("gathered"))
                dealt.append(tuple(data.on_after_batch_transfer(batch, 0)))
        return dealt

    resident = batches(0)
    monkeypatch.setattr("kd_lightning.data.batches.RESIDENT_BYTES", 100)
    for workers in (0, 1):
        found = batches(workers)
        assert len(found) == len(resident) > 1
        for ours, theirs in zip(found, resident, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours[:4], theirs[:4], strict=True))


def test_decoding_is_done_once_and_again_where_a_file_changed(
    split_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    real = decode.Decoder.read
    monkeypatch.setattr(decode.Decoder, "read", lambda self, file: read.append(file) or real(self, file))
    set_up(split_tree)
    assert len(read) == 33
    read.clear()
    set_up(split_tree)
    assert read == []
    write(split_tree / "test" / "bee" / "01.png", (10, 99, 0))
    data = set_up(split_tree)
    assert len(read) == 9  # the test part alone
    assert (1, 99) in colours(data, torch.arange(9), train=False)
    assert len(list(cache_of(split_tree).iterdir())) == 2  # the stale one is gone
    (split_tree / "train" / "cow" / "00.png").unlink()
    assert len(set_up(split_tree).train_positions) == 17
    assert len(set_up(split_tree, image_size=8).train_positions) == 17
    assert len(list(cache_of(split_tree).iterdir())) == 4  # one a size


def test_a_cache_is_hashed_once_in_a_process(split_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(split_tree)
    kept = list(cache_of(split_tree).rglob("*.bin"))
    for file in kept:
        os.utime(file, (time.time() - 60,) * 2)
    hashed: list[Path] = []
    real = image_cache._digest_of_file
    monkeypatch.setattr(image_cache, "_digest_of_file", lambda file: hashed.append(file) or real(file))
    for _ in range(2):  # two data modules, as of a fit and a test
        set_up(split_tree, "fit", "test")
    assert sorted(hashed) == sorted(kept)
    kept[0].write_bytes(b"\1" * kept[0].stat().st_size)
    set_up(split_tree)
    assert kept[0] in hashed[len(kept) :]  # changed since


def test_a_cache_that_was_cut_short_is_built_anew(split_tree: Path) -> None:
    whole = set_up(split_tree).make_batch(torch.arange(24)).image
    for damaged in cache_of(split_tree).glob("train-*/images.bin"):
        damaged.write_bytes(damaged.read_bytes()[:-1])
    assert torch.equal(set_up(split_tree).make_batch(torch.arange(24)).image, whole)
    for damaged in cache_of(split_tree).glob("train-*/report.json"):
        damaged.write_text("{")
    assert torch.equal(set_up(split_tree).make_batch(torch.arange(24)).image, whole)


def test_an_interrupted_decoding_leaves_no_cache(split_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object, file: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(decode.Decoder, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            set_up(split_tree)
    assert list(cache_of(split_tree).iterdir()) == []
    set_up(split_tree)


def test_what_a_killed_decoding_left_is_removed_after_an_hour(split_tree: Path) -> None:
    cache = cache_of(split_tree)
    cache.mkdir(parents=True)
    prefix = whole._prefix(image_cache.BUILDING)
    old, new, live, other = (
        cache / name for name in (f"{prefix}old", f"{prefix}new", f"{prefix}live", ".building-mine")
    )
    for left in (old, new, live, other):
        (left / "images").mkdir(parents=True)
    for left in (old, live, other):
        os.utime(left, (time.time() - whole.ABANDONED_AFTER - 10,) * 2)
    handle = os.open(live, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as a process does that is still decoding
    set_up(split_tree)
    os.close(handle)
    assert [left.exists() for left in (old, new, live, other)] == [False, True, True, True]


def test_images_that_cannot_be_kept_are_one_line_and_leave_nothing(
    split_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    assert "cache_dir: cannot write decoded images to" in message_of(split_tree)
    assert list(cache_of(split_tree).iterdir()) == []


def test_the_cache_goes_where_it_is_told(split_tree: Path, tmp_path: Path) -> None:
    set_up(split_tree, cache_dir=str(tmp_path / "elsewhere"))
    assert not cache_of(split_tree).exists()
    (own,) = (tmp_path / "elsewhere").iterdir()  # a tree's own: another's does not push it out
    assert len(list(own.iterdir())) == 2


@pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
def test_nothing_is_written_into_the_tree(split_tree: Path, tmp_path: Path, split: bool) -> None:
    root = split_tree if split else write_tree(tmp_path / "whole")
    (root / ".kd_lightning_cache").mkdir()  # of an earlier version
    before = sorted(root.rglob("*"))
    set_up(root)
    assert sorted(root.rglob("*")) == before
    (root / ".kd_lightning_cache").rmdir()
    folder = root / "train" if split else root
    assert ImageFolder(str(folder)).classes == ["ant", "bee", "cow"]
    kept = Path(os.environ["XDG_CACHE_HOME"], "kd_lightning")
    assert cache_of(root).parent == kept
    assert len(list(cache_of(root).iterdir())) == 2


def test_two_names_of_a_tree_have_one_cache_and_two_trees_have_two(split_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(split_tree)
    assert cache_of(tmp_path / "linked") == cache_of(split_tree) != cache_of(write_tree(tmp_path / "other"))


@pytest.mark.parametrize("kind", ["no home", "a file in its place"])
def test_a_user_without_a_cache_folder_is_told_of_the_option(
    split_tree: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does for an unknown user
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    message = message_of(split_tree)
    assert message.startswith("cache_dir: ")
    assert "name a" in message
    assert "--data.cache_dir" in message
    set_up(split_tree, cache_dir=str(tmp_path / "elsewhere"))


def test_a_cache_folder_that_cannot_be_made_is_a_one_line_error(split_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "--data.cache_dir" in message_of(split_tree, cache_dir=str(tmp_path / "file" / "cache"))


def test_proportions_are_kept_by_a_crop_or_given_up(tmp_path: Path) -> None:
    wide = Image.new("RGB", (40, 20), "black")
    wide.paste("white", (10, 0, 30, 20))  # the middle, all that a square crop sees
    wide.save(tmp_path / "wide.png")
    cropped, _ = decode.Decoder(3, 10, crop=True).read(tmp_path / "wide.png")
    squeezed, _ = decode.Decoder(3, 10, crop=False).read(tmp_path / "wide.png")
    assert (cropped[:, :, 1:-1] == 255).all()
    assert (squeezed[:, 5, 0] == 0).all()
    assert (squeezed[:, 5, 5] == 255).all()
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(5):
            wide.save(tmp_path / "images" / name / f"{i}.png")
    digests = {set_up(tmp_path / "images", "fit", crop=crop).input_digest() for crop in (True, False)}
    assert len(digests) == 2


def test_an_image_is_turned_as_its_camera_was_held(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 20), "black")
    image.paste("white", (0, 0, 20, 10))  # white above
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.png", exif=exif)
    pixels, _ = decode.Decoder(3, 20, crop=True).read(tmp_path / "turned.png")
    assert (pixels[:, 15] == 255).all()
    assert (pixels[:, 5] == 0).all()


def sixteen_bits(file: Path) -> None:
    Image.fromarray(np.full((12, 12), 32768, dtype=np.uint16)).save(file)


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("L", 90, "png", [90, 90, 90]),
        ("RGBA", (10, 20, 30, 255), "png", [10, 20, 30]),
        ("RGBA", (10, 20, 30, 0), "png", [255, 255, 255]),
        ("LA", (50, 255), "png", [50, 50, 50]),
        ("1", 1, "png", [255, 255, 255]),
        ("P", 0, "gif", [0, 0, 0]),
        ("CMYK", (0, 0, 0, 255), "jpg", [0, 0, 0]),
    ],
)
def test_images_of_another_kind_are_converted_and_counted_in_one_line(
    split_tree: Path, mode: str, colour: object, suffix: str, expected: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    file = write(split_tree / "test" / "ant" / f"99.{suffix}", colour, mode=mode)
    data = set_up(split_tree)
    place = torch.tensor([data.test_names.index(f"test/ant/99.{suffix}")])
    assert data.make_batch(place, train=False).image[0, :, 6, 6].tolist() == pytest.approx(expected, abs=3)
    assert [record.getMessage() for record in caplog.records if "converted" in record.getMessage()] == [
        f"{split_tree}: test: images converted to RGB: 1 {Image.open(file).mode}"
    ]


def test_sixteen_bit_grey_keeps_its_levels(tmp_path: Path) -> None:
    sixteen_bits(tmp_path / "deep.png")
    pixels, mode = decode.Decoder(1, 12, crop=True).read(tmp_path / "deep.png")
    assert (mode, pixels[0, 3, 3].item()) == ("I;16", 127)


def test_grey_images_have_one_channel(split_tree: Path) -> None:
    data = set_up(split_tree, grey=True)
    assert data.image_shape == (1, 12, 12)
    assert data.make_batch(torch.arange(2)).image.shape == (2, 1, 12, 12)


def test_unreadable_images_are_named_and_counted_before_training(split_tree: Path) -> None:
    for name in ("00", "01", "02", "03"):
        file = split_tree / "train" / "bee" / f"{name}.png"
        file.write_bytes(file.read_bytes()[:40])
    (split_tree / "train" / "ant" / "zz.jpg").write_bytes(b"")
    message = message_of(split_tree)
    assert "5 of 25 images cannot be read: " in message
    assert "and 2 more" in message
    assert "--data.skip_unreadable true" in message
    assert str(split_tree / "train") in message


@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_unreadable_images_are_left_out_where_that_is_wanted(
    split_tree: Path, limit: float, caplog: pytest.LogCaptureFixture
) -> None:
    for file in ("train/bee/00.png", "val/bee/00.png", "test/cow/01.png"):
        (split_tree / file).write_bytes(b"no image")
    data = set_up(split_tree, skip_unreadable=True, cache_limit=limit)
    assert sorted(colours(data, data.train_positions)) == [
        (c, i) for c in range(3) for i in range(6) if (c, i) != (1, 0)
    ]
    assert sorted(colours(data, data.val_positions)) == [(c, i) for c in range(3) for i in range(2) if (c, i) != (1, 0)]
    assert sorted(colours(data, torch.arange(8), train=False))[-2:] == [(2, 0), (2, 2)]
    assert "skipped: 2 of 24 images cannot be read" in caplog.text


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of since the last call."""
    messages = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return messages


@pytest.mark.parametrize("limit", [1.0, 0.0], ids=["cached", "streamed"])
def test_images_for_training_and_for_validation_are_counted(
    split_tree: Path, caplog: pytest.LogCaptureFixture, limit: float
) -> None:
    set_up(split_tree, "fit", cache_limit=limit).setup("fit")
    assert not said(caplog)
    copied = split_tree / "train" / "ant" / "copied.png"
    copied.write_bytes((split_tree / "val" / "bee" / "00.png").read_bytes())
    data = set_up(split_tree, "fit", "fit", cache_limit=limit)
    (line,) = said(caplog)
    assert line.startswith(f"{split_tree}: 1 of the {len(data.train_positions)} training images are, pixel for pixel,")
    assert line.endswith("among the validation images too: the figures of validation are too good")


@pytest.mark.parametrize("stages", [["fit", "test"], ["test", "test"]])
@pytest.mark.parametrize("limit", [1.0, 0.0], ids=["cached", "streamed"])
def test_test_images_that_are_copies_of_others_are_counted(
    split_tree: Path, caplog: pytest.LogCaptureFixture, limit: float, stages: list[str]
) -> None:
    for name in ("00", "01"):  # the same pixels in another file
        Image.open(split_tree / "train" / "ant" / f"{name}.png").save(split_tree / "test" / "bee" / f"{name}_copy.bmp")
    (split_tree / "test" / "cow" / "copy.png").write_bytes((split_tree / "val" / "bee" / "00.png").read_bytes())
    set_up(split_tree, *stages, cache_limit=limit)
    assert [line.removeprefix(f"{split_tree}: ") for line in said(caplog)] == [
        f"{count} of the 12 test images are, pixel for pixel, among the {part} images too: the figures of a test are "
        "too good"
        for count, part in ((2, "training"), (1, "validation"))
    ]


def test_classes_without_a_test_image_are_named(split_tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("ant", "cow"):
        shutil.rmtree(split_tree / "test" / name)
    set_up(split_tree, "fit", "test", "test")
    assert said(caplog) == [f"{split_tree}: no test image of ant, cow, which a test then says nothing about"]


def test_a_file_that_is_no_image_by_name_is_left_alone(split_tree: Path) -> None:
    (split_tree / "train" / "ant" / "notes.txt").write_text("mine")
    (split_tree / "train" / ".hidden").mkdir()
    assert len(set_up(split_tree).train_positions) == 18


def test_links_to_folders_are_followed_and_loops_are_named(
    split_tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As torchvision's ImageFolder does, which does not end in a loop."""
    for depth in ("more", "more/deep", "other"):
        write(tmp_path / depth / "new.png", "red")
    (split_tree / "train" / "ant" / "sub").mkdir()
    (split_tree / "train" / "ant" / "sub" / "linked").symlink_to(tmp_path / "more")
    (tmp_path / "more" / "deep" / "again").symlink_to("../../other", target_is_directory=True)
    (split_tree / "train" / "dog").symlink_to(tmp_path / "other")
    found = sorted(path for path, _ in set_up(split_tree, "predict").find()["train"])
    expected = sorted(Path(path) for path, _ in ImageFolder(str(split_tree / "train")).samples)
    assert found == expected
    assert len(found) == 18 + 4
    assert not said(caplog)
    (tmp_path / "more" / "deep" / "loop").symlink_to(split_tree / "train" / "ant")
    (tmp_path / "more" / "self").symlink_to(".")
    assert sorted(path for path, _ in set_up(split_tree, "predict").find()["train"]) == expected
    linked = split_tree / "train" / "ant" / "sub" / "linked"
    assert set(said(caplog)) == {
        f"{split_tree / 'train'}: 2 links not followed, which lead to a folder above them: "
        f"{linked / 'deep' / 'loop'}, {linked / 'self'}"
    }


def test_a_folder_that_cannot_be_listed_is_named(split_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.iterdir

    def forbidden(folder: Path) -> Iterator[Path]:
        if folder.name == "secret":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    (split_tree / "test" / "ant" / "secret").mkdir()
    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert message_of(split_tree).startswith(f"root: {split_tree}/test/ant/secret cannot be listed (")


@pytest.mark.parametrize("suffix", ["mpg", "eps", "ps", "wmf", "grib", "h5", "bufr", "pdf"])
def test_files_of_formats_that_are_not_decoded_are_no_images(
    split_tree: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    (split_tree / "train" / "ant" / f"clip.{suffix.upper()}").write_bytes(b"\0\0\1\xba")
    assert len(set_up(split_tree, "fit").train_positions) == 18
    (line,) = said(caplog)
    assert line.endswith(f"train: 1 files left out, whose suffix is not an image's: 1 .{suffix}")


def test_every_format_that_pillow_can_write_is_read(tmp_path: Path) -> None:
    Image.init()
    written = 0
    for kind in sorted(decode.FORMATS & set(Image.SAVE)):
        image = Image.new("RGB", (32, 32), (0, 0, 0))
        for mode in ("RGB", "L", "1", "P", "F"):
            with contextlib.suppress(Exception):
                image.convert(mode).save(tmp_path / kind, format=kind)
                break
        pixels, held = decode.Decoder(1, 4, crop=True).read(tmp_path / kind) if kind != "SPIDER" else (None, "F")
        assert held == "F" or pixels.max() < 10, kind
        written += 1
    assert written >= 15


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.eps"])
def test_no_file_makes_pillow_start_another_program(
    split_tree: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ghostscript(*args: object, **kwargs: object) -> None:
        pytest.fail("Ghostscript was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", ghostscript)
    file = split_tree / "train" / "ant" / name
    Image.new("L", (12, 12)).save(file, format="EPS")
    with pytest.raises(UnidentifiedImageError):
        decode.Decoder(3, 12, crop=True).read(file)
    if name != "x.eps":
        assert f"{name} (cannot identify image file" in message_of(split_tree)


def test_an_image_of_too_many_pixels_is_named_before_it_is_decoded(
    split_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 40 * 40)
    write(split_tree / "train" / "ant" / "fits.png", "red", (40, 40))
    photograph = write(split_tree / "train" / "ant" / "photo.jpg", "red", (160, 160))  # decoded at an eighth
    set_up(split_tree)
    write(split_tree / "train" / "ant" / "large.png", "red", (41, 40))
    assert "large.png (41 x 40 pixels, at most 1,600 are read; make the image smaller)" in message_of(split_tree)
    assert photograph.is_file()


def test_large_images_are_decoded_one_at_a_time(split_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "LARGE_IMAGE", 20 * 20)
    files = [write(split_tree / f"{i}.png", (i, 0, 0), (21, 21)) for i in range(8)]
    small = write(split_tree / "small.png", (9, 0, 0), (20, 20))
    real, now, most = decode._in_mode, 0, 0

    def counted(image: Image.Image, mode: str) -> Image.Image:
        nonlocal now, most
        if image.width == 20:
            assert threading.current_thread() is threading.main_thread()
            return real(image, mode)
        now += 1
        most = max(most, now)
        time.sleep(0.002)
        now -= 1
        return real(image, mode)

    monkeypatch.setattr(decode, "_in_mode", counted)
    read = decode.Decoder(3, 4, crop=True).read
    with ThreadPoolExecutor(8) as pool:
        assert [int(image[0, 0, 0]) for image, _ in pool.map(read, files)] == list(range(8))
    assert most == 1
    assert int(read(small)[0][0, 0, 0]) == 9


@pytest.mark.parametrize("kind", ["ICO", "ICNS"])
def test_a_format_that_holds_another_image_counts_as_large(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "icon", format=kind)
    with decode.open_image(tmp_path / "icon") as image:
        assert decode.check_size(image) > decode.LARGE_IMAGE


def test_a_pipe_is_no_image_and_is_not_waited_for(split_tree: Path) -> None:
    os.mkfifo(split_tree / "train" / "ant" / "pipe.png")
    assert "pipe.png (no regular file)" in message_of(split_tree)


@pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
def test_classes_are_left_out_by_name_in_every_part(split_tree: Path, tmp_path: Path, split: bool) -> None:
    root = split_tree if split else write_tree(tmp_path / "whole", classes=("ant", "bad", "bee", "cow"))
    for part in ("train", "test") if split else ("",):
        (root / part / "empty").mkdir()
        write(root / part / "bad" / "00.png", "red").write_bytes(b"damaged")
    hint = """leave the class out: --data.leave_out_classes '["empty"]'"""
    assert hint in message_of(root)
    data = set_up(root, leave_out_classes=["bad", "empty"])
    assert data.class_names == ["ant", "bee", "cow"]
    assert not {"bad", "empty"} & {Path(name).parent.name for name in data.test_names}
    fewer = set_up(root, leave_out_classes=["bad", "empty", "bee"])
    assert fewer.class_names == ["ant", "cow"]
    assert set(fewer.make_batch(fewer.train_positions).label.tolist()) == {0, 1}
    assert "2 left out" not in message_of(root, leave_out_classes=["none"])
    assert "leave_out_classes: none found, names of class folders in" in message_of(root, leave_out_classes=["none"])
    assert "one class found (cow)" in message_of(root, leave_out_classes=["bad", "empty", "bee", "ant"])


def test_a_class_of_every_part_may_be_called_train(tmp_path: Path) -> None:
    for part, count in (("train", 2), ("test", 1)):
        write_tree(tmp_path / part, count, ("trail", "train"))
    assert set_up(tmp_path).class_names == ["trail", "train"]
    (tmp_path / "train" / "val").mkdir()
    assert f"root: val found among the class folders in {tmp_path / 'train'}" in message_of(tmp_path)


def test_a_class_in_the_test_set_alone_may_be_left_out(split_tree: Path) -> None:
    write(split_tree / "test" / "yak" / "00.png", "red")
    assert set_up(split_tree, leave_out_classes=["yak"]).class_names == ["ant", "bee", "cow"]


def test_fewer_than_two_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("")
    assert f"0 class folders found in {tmp_path}, at least 2 expected" in message_of(tmp_path)
    write_tree(tmp_path / "train", 3, ("dog",))
    assert f"one class found (dog) in {tmp_path / 'train'}" in message_of(tmp_path)


def test_an_empty_class_is_named(split_tree: Path) -> None:
    (split_tree / "train" / "emu").mkdir()
    assert f"the class folder {split_tree / 'train' / 'emu'} holds no image" in message_of(split_tree)


def test_a_class_that_training_lacks_is_named(split_tree: Path) -> None:
    write(split_tree / "test" / "yak" / "00.png", "red")
    message = message_of(split_tree)
    assert "yak" in message
    assert str(split_tree / "test") in message


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert f"no folder {tmp_path / 'none'}; " in message_of(tmp_path / "none")


def test_a_missing_test_part_is_refused_when_it_is_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "images"
    write_tree(root / "train")
    data = set_up(root, "fit")
    with pytest.raises(UserError, match="no test images"):
        data.setup("test")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"image_size": 0}, "image_size: 0 found"),
        ({"split": (0.5, 0.1, 0.1)}, "three fractions that add up to 1 expected"),
        ({"split": (0.0, 0.5, 0.5)}, "the first above 0"),
        ({"split": (0.8, 0.1, 0.1), "val_size": 3}, "split and val_size: both found"),
        ({"split": (0.8, 0.1, 0.1)}, "has a train/ folder"),
        ({"val_size": 3}, "val_size: 3 found"),
    ],
)
def test_options_that_do_not_fit_are_refused(split_tree: Path, options: dict[str, object], expected: str) -> None:
    assert expected in message_of(split_tree, **options)


def test_images_are_kept_at_one_size_and_shown_at_another(split_tree: Path) -> None:
    views = CropFlip(2)
    data = set_up(split_tree, image_size=24, stored_size=12, views=views)
    plain = set_up(split_tree, image_size=12, views=views)
    index, view = torch.tensor([3, 8]), torch.tensor([1, 30])
    expected = torch.nn.functional.interpolate(plain.make_batch(index, view=view).image, (24, 24), mode="bilinear")
    torch.testing.assert_close(data.make_batch(index, view=view).image, expected, rtol=0, atol=1e-3)
    assert (data.image_shape, data.stored_shape) == ((3, 24, 24), (3, 12, 12))


def test_what_a_folder_holds_has_a_fingerprint(split_tree: Path) -> None:
    before = set_up(split_tree).fingerprint
    assert set_up(split_tree).fingerprint == before
    write(split_tree / "test" / "bee" / "new.png", "red")
    assert set_up(split_tree).fingerprint != before


def test_a_file_that_was_mended_is_read_again(split_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = decode.Decoder.read

    def forbidden(self: decode.Decoder, file: Path) -> object:
        if file.stat().st_mode & 0o400:
            return real(self, file)
        raise PermissionError("Permission denied")

    monkeypatch.setattr(decode.Decoder, "read", forbidden)
    file = split_tree / "train" / "bee" / "03.png"
    file.chmod(0o000)
    assert "Permission denied" in message_of(split_tree)
    file.chmod(0o644)
    set_up(split_tree)


def test_a_file_whose_camera_data_is_cut_short_is_unreadable_and_no_traceback(split_tree: Path) -> None:
    file = split_tree / "train" / "bee" / "03.png"
    Image.new("RGB", (12, 12)).save(file, exif=b"Exif\0\0MM\0*\0\0")
    assert "03.png" in message_of(split_tree)


def test_names_that_are_odd_do_no_harm(split_tree: Path) -> None:
    (split_tree / "train" / "ant" / os.fsdecode(b"\xff.png")).write_bytes(
        (split_tree / "train/ant/00.png").read_bytes()
    )
    (split_tree / "train" / "ant" / ".ipynb_checkpoints").mkdir()
    write(split_tree / "train" / "ant" / ".ipynb_checkpoints" / "00-checkpoint.png", "red")
    assert len(set_up(split_tree).train_positions) == 19
    (split_tree / "train" / "ant" / "gone.png").symlink_to(split_tree / "nowhere.png")
    assert "gone.png" in message_of(split_tree)


@pytest.mark.parametrize("names", [("Train", "Test"), ("val", "test"), ("training", "testing")])
def test_a_tree_whose_parts_are_misnamed_is_not_taken_for_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write_tree(tmp_path / name, 3)
    message = message_of(tmp_path)
    assert names[0] in message
    assert "train/" in message


@pytest.mark.parametrize(("mode", "level"), [("F", 0.5), ("I", 200)])
def test_pixels_of_32_bits_have_no_known_range_and_are_unreadable(split_tree: Path, mode: str, level: float) -> None:
    Image.new(mode, (12, 12), level).save(split_tree / "train" / "ant" / "deep.tif")
    assert f"deep.tif (32-bit pixels ({mode}), whose range is unknown" in message_of(split_tree)


def test_the_caches_of_two_settings_live_side_by_side(split_tree: Path) -> None:
    for crop in (True, False):
        set_up(split_tree, crop=crop)
    assert len(list(cache_of(split_tree).iterdir())) == 4


def test_a_class_whose_training_images_are_all_left_out_is_named(split_tree: Path) -> None:
    for file in (split_tree / "train" / "bee").iterdir():
        file.write_bytes(b"")
    message = message_of(split_tree, skip_unreadable=True)
    assert "no training image of bee in" in message
    assert message.endswith("""or go on without: --data.leave_out_classes '["bee"]'""")


def test_files_whose_suffix_is_not_an_image_s_are_counted_in_one_line(
    split_tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b.heic_", "c.heic_", ".hidden"):
        (split_tree / "train" / "ant" / name).write_text("")
    set_up(split_tree)
    (line,) = [record.message for record in caplog.records if "left out" in record.message]
    assert line.endswith("train: 3 files left out, whose suffix is not an image's: 2 .heic_, 1 none")


def test_two_folders_for_validation_are_refused(split_tree: Path) -> None:
    write_tree(split_tree / "valid", 2)
    assert "val/ and valid/ found in" in message_of(split_tree)


def test_a_checkpoint_of_another_split_of_one_tree_is_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "images")
    kept = set_up(root).state_dict()
    set_up(root).load_state_dict(kept)
    with pytest.raises(UserError, match="its training images may be among the test images"):
        set_up(root, split_seed=1).load_state_dict(kept)
    (root / "ant" / "00.png").touch()  # the same file
    set_up(root).load_state_dict(kept)
    write(root / "ant" / "new.png", (0, 0, 0))
    with pytest.raises(UserError, match="its training images may be among the test images"):
        set_up(root).load_state_dict(kept)


def test_a_tree_with_folders_of_its_own_may_be_tested_on_other_images(split_tree: Path) -> None:
    kept = set_up(split_tree).state_dict()
    write(split_tree / "test" / "ant" / "new.png", (0, 0, 0))
    set_up(split_tree).load_state_dict(kept)
