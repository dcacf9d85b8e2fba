"""Datasets of Hugging Face, local ones: no test reaches the hub."""

import importlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kd_lightning.__main__ import main
from kd_lightning.data import HuggingFaceDataModule
from kd_lightning.errors import UserError
from kd_lightning.reports.results import read_results
from tests.data.test_image_folder import write_tree
from tests.test_shown_code import block

pytestmark = pytest.mark.skipif(find_spec("datasets") is None, reason="datasets is an optional package")

NAMES = ("ant", "bee", "cow")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library keeps its cache in the test's folder, and does not try to connect."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    for place in ("datasets.config.HF_HUB_OFFLINE", "huggingface_hub.constants.HF_HUB_OFFLINE"):
        monkeypatch.setattr(place, True)
    importlib.import_module("datasets").disable_progress_bars()


def png(colour: tuple[int, int, int]) -> dict[str, Any]:
    content = BytesIO()
    Image.new("RGB", (12, 12), colour).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def table(count: int, part: int = 0, labels: Sequence[Any] = (), label: Any = None, **columns: Any) -> Any:
    """Make a split: image i is of class i % 3 and has the colour (10 c, i, part)."""
    import datasets

    labels = labels or [i % 3 for i in range(count)]
    rows = {"image": [png((10 * (i % 3), i, part)) for i in range(count)], "labels": labels, **columns}
    kinds = {"image": datasets.Image(), "labels": label or datasets.ClassLabel(names=list(NAMES))}
    kinds |= {name: datasets.Value("string") for name in columns}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))


def write_parquet(folder: Path, **splits: Any) -> Path:
    folder.mkdir(parents=True)
    for name, split in splits.items():
        split.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return folder


def set_up(path: object, *stages: str, **options: Any) -> HuggingFaceDataModule:
    data = HuggingFaceDataModule(str(path), **{"image_size": 12, "mean": [0.0], "std": [1 / 255], **options})
    data.prepare_data()
    for stage in stages or ("fit", "test"):
        data.setup(stage)
    return data


def levels(data: HuggingFaceDataModule, places: torch.Tensor, train: bool = True) -> list[tuple[int, int, int]]:
    """(label, number, part) of images, by their pixels; each is of the class of its colour."""
    batch = data.make_batch(places, train)
    red, green, blue = (batch.image[:, channel, 5, 5].int().tolist() for channel in range(3))
    assert batch.label.tolist() == [level // 10 for level in red]
    return sorted(zip(batch.label.tolist(), green, blue, strict=True))


def test_a_dataset_is_trained_on_as_shown() -> None:
    write_parquet(Path("AI-Lab-Makerere/beans"), train=table(20), test=table(6, 1))
    Path("beans.yaml").write_text(block("docs/own_data.md", "# beans.yaml"))
    network = "{class_path: kd_lightning.models.MLP, init_args: {widths: [12288, 3]}}"
    words = ["--config=beans.yaml", "--model=kd_lightning.modules.TeacherModule", f"--model.net={network}"]
    words += ["--trainer.max_epochs=1", "--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=runs"]
    words += ["--trainer.logger.name=", "--trainer.logger.version=beans", "--trainer.accelerator=cpu"]
    assert main(["fit", *words]) == 0
    assert main(["test", *words, "--ckpt_path=runs/beans", "--pictures=false"]) == 0
    results = read_results(Path("runs/beans"))
    assert (results["test"]["images"], results["class_names"]) == (6, list(NAMES))


@pytest.mark.parametrize("kind", ["parquet", "imagefolder", "arrow"])
@pytest.mark.parametrize("limit", [1.0, 0.0], ids=["cached", "streamed"])
def test_local_kinds_have_the_same_images(kind: str, limit: float) -> None:
    import datasets

    path = Path("local")
    if kind == "parquet":
        write_parquet(path, train=table(6), test=table(3, 1), validation=table(3, 2))
    elif kind == "arrow":
        parts = {"train": table(6), "test": table(3, 1), "validation": table(3, 2)}
        datasets.DatasetDict(parts).save_to_disk(path)
    else:
        for blue, part in enumerate(("train", "test", "validation")):
            write_tree(path / part, 2 if part == "train" else 1, blue=blue)
    data = set_up(path, cache_limit=limit)
    assert list(data.class_names) == list(NAMES)
    train, val, test = (
        levels(data, *each)
        for each in ((data.train_positions,), (data.val_positions,), (torch.arange(data.test_count), False))
    )
    assert [label for label, *_ in train] == [0, 0, 1, 1, 2, 2]
    assert [[part for *_, part in each] for each in (train, test, val)] == [[0] * 6, [1] * 3, [2] * 3]
    assert len(data.input_digest()) == 64
    assert set_up(path, cache_limit=limit).input_digest() == data.input_digest()  # found again in the cache


def test_a_training_split_alone_is_split(tmp_path: Path) -> None:
    table(30).to_parquet("birds.parquet")
    data = set_up("birds.parquet")
    assert [len(data.train_positions), len(data.val_positions), data.test_count] == [24, 3, 3]
    assert all(name.startswith("train[") for name in data.test_names or [])


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [(["dog", "ant", "dog"], "string", ["ant", "dog"]), ([2, 0, 1], "int64", ["0", "1", "2"])],
)
def test_names_and_numbers_are_classes_too(labels: list[Any], kind: str, names: list[str]) -> None:
    import datasets

    made = table(3, labels=labels, label=datasets.Value(kind)).rename_column("labels", "label")
    write_parquet(Path("data"), train=made, test=made)
    data = set_up("data", "fit")
    assert list(data.class_names) == names
    assert sorted(data.make_batch(torch.arange(3)).label.tolist()) == sorted(names.index(str(each)) for each in labels)


def test_labels_that_are_missing_mark_unlabelled_images_and_no_test_set(caplog: pytest.LogCaptureFixture) -> None:
    train = table(6, labels=[0, 1, 2, None, -1, 0])
    write_parquet(Path("data"), train=train, validation=table(3, 1), test=table(3, 2, labels=[-1] * 3))
    data = set_up("data")
    assert data.make_batch(data.train_positions).label.sort().values.tolist() == [-1, -1, 0, 0, 1, 2]
    assert (data.test_count, data.test_part) == (3, "val")
    assert "data: no test part found: a test measures the images of val/" in caplog.text


def test_unlabelled_files_come_beside_rows() -> None:
    write_parquet(Path("data"), train=table(6), test=table(3, 1))
    write_tree(Path("more"), 1)
    data = set_up("data", "fit", unlabelled="more")
    assert data.make_batch(data.train_positions).label.add(1).bincount().tolist() == [3, 2, 2, 2]


def test_a_damaged_row_is_named() -> None:
    import datasets

    rows = {"image": [png((0, 0, 0)), {"bytes": b"none", "path": None}, png((1, 1, 1))], "label": [0, 1, 1]}
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).to_parquet("bad.parquet")
    with pytest.raises(UserError, match=r"path: 1 of \d images cannot be read: train\[1\] \(cannot identify image"):
        set_up("bad.parquet", "fit", split=[1.0, 0.0, 0.0])
    assert set_up("bad.parquet", "fit", split=[1.0, 0.0, 0.0], skip_unreadable=True).train_count == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"image_column": "picture"},
            "image_column: picture found, one of the dataset's columns expected: "
            "image (Image), labels (ClassLabel), note (string)",
        ),
        ({"label_column": "class"}, "label_column: class found, one of the dataset's columns expected: image (Image)"),
        ({"image_column": "labels"}, "image_column: labels (ClassLabel) found, images expected"),
        ({"label_column": "image"}, "label_column: image (Image) found, class numbers or names expected"),
        ({"train_split": "dev"}, "train_split: dev found, one of train, test or a part of it expected"),
        ({"name": "large"}, "path: data cannot be loaded (BuilderConfig 'large' not found. Available: ['default'])"),
        ({"path": "user/nothing"}, "path: user/nothing is no local folder, and cannot be loaded from the hub ("),
    ],
)
def test_what_cannot_be_loaded_is_one_line(
    options: dict[str, str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(Path("data"), train=table(3, note=["a"] * 3), test=table(3, note=["b"] * 3))
    words = [f"--data.{name}={value}" for name, value in {"path": "data", **options}.items()]
    network = "{class_path: kd_lightning.models.MLP, init_args: {widths: [12288, 3]}}"
    model = ["--model=kd_lightning.modules.TeacherModule", f"--model.net={network}", "--trainer.accelerator=cpu"]
    capsys.readouterr()
    assert main(["fit", "--data=kd_lightning.data.HuggingFaceDataModule", *words, *model]) == 2
    error = capsys.readouterr().err.strip()
    assert expected in error
    assert len(error.splitlines()) == 1


def test_without_the_package_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"datasets is not installed: pip install \"kd_lightning\[hub\]\""):
        HuggingFaceDataModule("anything")
