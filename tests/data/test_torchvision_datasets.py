"""torchvision's datasets, each read from a few made files in its own layout."""

import csv
import gzip
import hashlib
import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image
from torchvision.datasets import CIFAR100, EMNIST, FER2013, SEMEION, STL10, SVHN, Flowers102
from torchvision.datasets import utils as torchvision_utils

from kd_lightning.__main__ import main
from kd_lightning.data import CIFAR10DataModule, MNISTDataModule, TorchvisionDataModule
from kd_lightning.errors import UserError
from kd_lightning.reports.results import read_results
from tests.made import write_cifar10, write_mnist
from tests.test_shown_code import block

FASHION = "# fashion.yaml: kd-lightning fit --config fashion.yaml"
"""First line of the config in docs/own_data.md."""

COUNT = 8
"""Images of each made part: image i is of class i % 4 and has the grey level 10 (i % 4) + part."""


def colour(i: int, part: int) -> tuple[int, int, int]:
    return (10 * (i % 4) + part, 20 * (i % 4), i)


def picture(file: Path, i: int, part: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), colour(i, part)).save(file, **({"quality": 100} if file.suffix == ".jpg" else {}))


def stacked(part: int, side: int, channels: int = 3) -> np.ndarray[Any, Any]:
    every = np.array([colour(i, part)[:channels] for i in range(COUNT)], dtype=np.uint8)
    return np.broadcast_to(every[:, :, None, None], (COUNT, channels, side, side)).copy()


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def write_idx(file: Path, content: np.ndarray[Any, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(np.array([0x800 + content.ndim, *content.shape], dtype=">u4").tobytes() + content.tobytes())


def fashion_mnist(root: Path, patch: pytest.MonkeyPatch) -> None:
    for part, name in enumerate(("train", "t10k")):
        write_idx(root / f"FashionMNIST/raw/{name}-images-idx3-ubyte", stacked(part, 28, 1)[:, 0])
        write_idx(root / f"FashionMNIST/raw/{name}-labels-idx1-ubyte", np.arange(COUNT, dtype=np.uint8) % 4)


def qmnist(root: Path, patch: pytest.MonkeyPatch) -> None:
    for part, name in enumerate(("train", "test")):
        write_idx(root / f"QMNIST/raw/qmnist-{name}-images-idx3-ubyte", stacked(part, 28, 1)[:, 0])
        file = root / f"QMNIST/raw/qmnist-{name}-labels-idx2-int"
        labels = np.zeros((COUNT, 8), dtype=">i4")
        labels[:, 0] = np.arange(COUNT) % 4
        file.write_bytes(np.array([0xC02, COUNT, 8], dtype=">u4").tobytes() + labels.tobytes())


def emnist(root: Path, patch: pytest.MonkeyPatch) -> None:
    for part, name in enumerate(("train", "test")):
        write_idx(root / f"EMNIST/raw/emnist-digits-{name}-images-idx3-ubyte", stacked(part, 28, 1)[:, 0])
        write_idx(root / f"EMNIST/raw/emnist-digits-{name}-labels-idx1-ubyte", np.arange(COUNT, dtype=np.uint8) % 4)


def cifar100(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / CIFAR100.base_folder
    folder.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, md5(folder / name)]

    for part, name in enumerate(("train", "test")):
        content = {"data": stacked(part, 32).reshape(COUNT, -1), "fine_labels": [i % 4 for i in range(COUNT)]}
        patch.setattr(CIFAR100, f"{name}_list", [write(name, content)])
    meta = {"fine_label_names": ["apple", "fish", "baby", "bear"]}
    patch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": write("meta", meta)[1]})


def svhn(root: Path, patch: pytest.MonkeyPatch) -> None:
    root.mkdir(parents=True)
    lists = dict(SVHN.split_list)
    for part, name in enumerate(("train", "test")):
        label = np.arange(COUNT)[:, None] % 4
        label[label == 0] = 10  # as in the real file
        file = root / f"{name}_32x32.mat"
        scipy.io.savemat(file, {"X": stacked(part, 32).transpose(2, 3, 1, 0), "y": label})
        lists[name] = [*lists[name][:2], md5(file)]
    patch.setattr(SVHN, "split_list", lists)


def stl10(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / STL10.base_folder
    folder.mkdir(parents=True)
    for part, name in enumerate(("train", "test", "unlabeled")):
        (folder / f"{name}_X.bin").write_bytes(stacked(part, 96).tobytes())
        (folder / f"{name}_y.bin").write_bytes((np.arange(COUNT, dtype=np.uint8) % 4 + 1).tobytes())
    (folder / "class_names.txt").write_text("airplane\nbird\ncar\ncat\n")
    for lists in ("train_list", "test_list"):
        patch.setattr(STL10, lists, [[name, md5(folder / name)] for name, _ in getattr(STL10, lists)])


def fer2013(root: Path, patch: pytest.MonkeyPatch) -> None:
    file = root / "fer2013/icml_face_data.csv"
    file.parent.mkdir(parents=True)
    with file.open("w", newline="") as content:
        rows = csv.writer(content)
        rows.writerow(["emotion", " Usage", " pixels"])
        for part, usage in enumerate(("Training", "PublicTest")):
            rows.writerows([i % 4, usage, " ".join([str(colour(i, part)[0])] * 48**2)] for i in range(COUNT))
    patch.setattr(FER2013, "_RESOURCES", {**FER2013._RESOURCES, "icml": (file.name, md5(file))})


def semeion(root: Path, patch: pytest.MonkeyPatch) -> None:
    root.mkdir(parents=True)
    rows = np.zeros((4 * COUNT, 266))
    rows[np.arange(4 * COUNT), 256 + np.arange(4 * COUNT) % 4] = 1
    np.savetxt(root / SEMEION.filename, rows, fmt="%d")
    patch.setattr(SEMEION, "md5_checksum", md5(root / SEMEION.filename))


def eurosat(root: Path, patch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        picture(root / f"eurosat/2750/{('AnnualCrop', 'Forest', 'Highway', 'River')[i % 4]}/{i}.png", i)


def flowers102(root: Path, patch: pytest.MonkeyPatch) -> None:
    for i in range(3 * COUNT):
        picture(root / f"flowers-102/jpg/image_{i + 1:05}.jpg", i, i // COUNT)
    names = {"labels": np.arange(3 * COUNT) % 4 + 1}
    parts = {key: np.arange(COUNT) + 1 + COUNT * p for p, key in enumerate(("trnid", "valid", "tstid"))}
    files = dict(Flowers102._file_dict)
    for key, content in (("label", names), ("setid", parts)):
        file = root / "flowers-102" / files[key][0]
        scipy.io.savemat(file, content)
        files[key] = (files[key][0], md5(file))
    patch.setattr(Flowers102, "_file_dict", files)


def oxford_pets(root: Path, patch: pytest.MonkeyPatch) -> None:
    breeds = ("Abyssinian", "american_bulldog", "beagle", "Bengal")
    for part, name in enumerate(("trainval", "test")):
        lines = []
        for i in range(COUNT):
            picture(root / f"oxford-iiit-pet/images/{breeds[i % 4]}_{part}{i}.jpg", i, part)
            lines.append(f"{breeds[i % 4]}_{part}{i} {i % 4 + 1} 1 1\n")
        (root / "oxford-iiit-pet/annotations").mkdir(exist_ok=True)
        (root / f"oxford-iiit-pet/annotations/{name}.txt").write_text("".join(lines))


def food101(root: Path, patch: pytest.MonkeyPatch) -> None:
    foods = ("baklava", "gyoza", "ramen", "tacos")
    (root / "food-101/meta").mkdir(parents=True)
    for part, name in enumerate(("train", "test")):
        lists: dict[str, list[str]] = {food: [] for food in foods}
        for i in range(COUNT):
            picture(root / f"food-101/images/{foods[i % 4]}/{part}{i}.jpg", i, part)
            lists[foods[i % 4]].append(f"{foods[i % 4]}/{part}{i}")
        (root / f"food-101/meta/{name}.json").write_text(json.dumps(lists))


def gtsrb(root: Path, patch: pytest.MonkeyPatch) -> None:
    lines = ["Filename;ClassId\n"]
    for i in range(COUNT):
        picture(root / f"gtsrb/GTSRB/Training/{i % 4:05}/{i}.ppm", i)
        picture(root / f"gtsrb/GTSRB/Final_Test/Images/{i}.ppm", i, 1)
        lines.append(f"{i}.ppm;{i % 4}\n")
    (root / "gtsrb/GT-final_test.csv").write_text("".join(lines))


def dtd(root: Path, patch: pytest.MonkeyPatch) -> None:
    kinds = ("banded", "dotted", "lined", "woven")
    (root / "dtd/dtd/labels").mkdir(parents=True)
    for part, name in enumerate(("train", "val", "test")):
        names = [f"{kinds[i % 4]}/{name}{i}.jpg" for i in range(COUNT)]
        for i, each in enumerate(names):
            picture(root / "dtd/dtd/images" / each, i, part)
        (root / f"dtd/dtd/labels/{name}1.txt").write_text("\n".join(names) + "\n")


def stanford_cars(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    annotated = np.zeros(COUNT, dtype=[("class", int), ("fname", object)])
    for i in range(COUNT):
        picture(folder / f"cars_train/{i}.jpg", i)
        picture(folder / f"cars_test/{i}.jpg", i, 1)
        annotated[i] = (i % 4 + 1, f"{i}.jpg")
    scipy.io.savemat(folder / "devkit/cars_train_annos.mat", {"annotations": annotated})
    scipy.io.savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": annotated})
    names = np.array(["Audi", "BMW", "Fiat", "Kia"], dtype=object)
    scipy.io.savemat(folder / "devkit/cars_meta.mat", {"class_names": names})


def aircraft(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "fgvc-aircraft-2013b/data"
    names = ("707-320", "A300B4", "C-130", "DC-10")
    for part, name in enumerate(("train", "val", "test")):
        for i in range(COUNT):
            picture(folder / f"images/{part}{i}.jpg", i, part)
        lines = [f"{part}{i} {names[i % 4]}\n" for i in range(COUNT)]
        (folder / f"images_variant_{name}.txt").write_text("".join(lines))
    (folder / "variants.txt").write_text("\n".join(names))


def caltech101(root: Path, patch: pytest.MonkeyPatch) -> None:
    for c, name in enumerate(("BACKGROUND_Google", "Faces", "accordion", "crab", "wrench")):
        for i in range(10):
            picture(root / f"caltech101/101_ObjectCategories/{name}/image_{i + 1:04}.jpg", 4 * i + c - 1)


def imagenette(root: Path, patch: pytest.MonkeyPatch) -> None:
    for part, name in enumerate(("train", "val")):
        for i in range(COUNT):
            wnid = ("n01440764", "n02102040", "n02979186", "n03000684")[i % 4]
            picture(root / f"imagenette2/{name}/{wnid}/{i}.jpeg", i, part)


def clevr(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "clevr/CLEVR_v1.0"
    (folder / "scenes").mkdir(parents=True)
    for part, name in enumerate(("train", "val", "test")):  # test has no labels
        files = [f"CLEVR_{name}_{i}.png" for i in range(COUNT)]
        for i, file in enumerate(files):
            picture(folder / "images" / name / file, i, part)
        scenes = [{"image_filename": file, "objects": [0] * (i % 4)} for i, file in enumerate(files)]
        if name != "test":
            (folder / f"scenes/CLEVR_{name}_scenes.json").write_text(json.dumps({"scenes": scenes}))


DIGITS = ["0", "1", "2", "3"]
LETTERS = ["0 - zero", "1 - one", "2 - two", "3 - three", "4 - four", "5 - five", "6 - six", "7 - seven", "8 - eight"]
LETTERS += ["9 - nine"]

EVERY: list[tuple[Callable[[Path, pytest.MonkeyPatch], None], str, dict[str, Any], tuple[int, ...], list[str]]] = [
    (fashion_mnist, "FashionMNIST", {}, (1, 28, 28), torchvision.datasets.FashionMNIST.classes),
    (qmnist, "QMNIST", {}, (1, 28, 28), LETTERS),
    (emnist, "EMNIST", {"dataset_kwargs": {"split": "digits"}}, (1, 28, 28), EMNIST.classes_split_dict["digits"]),
    (cifar100, "CIFAR100", {}, (3, 32, 32), ["apple", "fish", "baby", "bear"]),
    (svhn, "SVHN", {}, (3, 32, 32), DIGITS),
    (stl10, "STL10", {}, (3, 96, 96), ["airplane", "bird", "car", "cat"]),
    (fer2013, "FER2013", {}, (1, 48, 48), DIGITS),
    (flowers102, "Flowers102", {}, (3, 64, 64), Flowers102.classes),
    (oxford_pets, "OxfordIIITPet", {}, (3, 64, 64), ["Abyssinian", "American Bulldog", "Beagle", "Bengal"]),
    (food101, "Food101", {}, (3, 64, 64), ["baklava", "gyoza", "ramen", "tacos"]),
    (gtsrb, "GTSRB", {}, (3, 64, 64), DIGITS),
    (dtd, "DTD", {}, (3, 64, 64), ["banded", "dotted", "lined", "woven"]),
    (stanford_cars, "StanfordCars", {}, (3, 64, 64), ["Audi", "BMW", "Fiat", "Kia"]),
    (aircraft, "FGVCAircraft", {}, (3, 64, 64), ["707-320", "A300B4", "C-130", "DC-10"]),
]


@pytest.fixture(autouse=True)
def _nothing_can_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise URLError("no route\nto host")

    monkeypatch.setattr(torchvision_utils, "_get_redirect_url", unreachable)


def test_a_network_is_trained_and_tested_on_a_dataset_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    fashion_mnist(tmp_path / "data", monkeypatch)
    Path("fashion.yaml").write_text(block("docs/own_data.md", FASHION))
    words = ["--config=fashion.yaml", "--data.val_size=2", "--trainer.max_epochs=1", "--trainer.logger.version=run"]
    assert main(["fit", *words]) == 0
    assert main(["test", *words, "--ckpt_path=lightning_logs/fashion/run", "--pictures=false"]) == 0
    assert read_results(Path("lightning_logs/fashion/run"))["test"]["images"] == COUNT


def set_up(dataset: str, root: Path, *stages: str, **options: Any) -> TorchvisionDataModule:
    data = TorchvisionDataModule(dataset, str(root), **options)
    data.prepare_data()
    for stage in stages or ("fit", "test"):
        data.setup(stage)
    return data


@pytest.mark.parametrize(("write", "name", "options", "shape", "classes"), EVERY, ids=[each[1] for each in EVERY])
def test_a_dataset_with_its_own_split_is_read_from_its_own_layout(
    write: Callable[[Path, pytest.MonkeyPatch], None],
    name: str,
    options: dict[str, Any],
    shape: tuple[int, ...],
    classes: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "root", monkeypatch)
    data = TorchvisionDataModule(name, str(tmp_path / "root"), **options)
    assert (data.image_shape, list(data.class_names)) == (shape, list(classes))  # before setup
    data = set_up(name, tmp_path / "root", **options)
    last = 2 if len(data.val_positions) else 1  # number of the made part
    for train, part, places in (
        (True, 0, data.train_positions),
        (True, 1, data.val_positions),
        (False, last, torch.arange(data.test_count)),
    ):
        image = data.stored_images(places, train)[:, 0, 3, 3].int()
        label = data.make_batch(places, train).label
        assert len(places) == (0 if train and part and last == 1 else COUNT)
        assert ((image - (10 * label + part)).abs() <= 1).all(), "JPEG keeps a colour to one level"
        assert label.bincount().tolist() == ([2, 2, 2, 2] if len(label) else [])


@pytest.mark.parametrize(
    ("write", "name", "count"),
    [(eurosat, "EuroSAT", 40), (caltech101, "Caltech101", 40), (semeion, "SEMEION", 4 * COUNT)],
)
def test_a_dataset_without_a_split_is_split_by_fractions(
    write: Callable[[Path, pytest.MonkeyPatch], None],
    name: str,
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "root", monkeypatch)
    data = set_up(name, tmp_path / "root", split=[0.5, 0.25, 0.25])
    assert data.num_classes == 4
    counts = [len(data.train_positions), len(data.val_positions), data.test_count]
    assert counts == [count // 2, count // 4, count // 4]
    label = data.make_batch(data.val_positions).label
    assert label.bincount().tolist() == pytest.approx([count / 16] * 4, abs=1)
    with pytest.raises(UserError, match=r"train_split: train found, but torchvision's .* has no splits"):
        TorchvisionDataModule(name, str(tmp_path / "root"), train_split="train")


def test_mnist_and_cifar_are_the_same_by_either_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    write_cifar10(tmp_path, monkeypatch)
    for own, name in ((MNISTDataModule(str(tmp_path)), "MNIST"), (CIFAR10DataModule(str(tmp_path)), "CIFAR10")):
        data = TorchvisionDataModule(name, str(tmp_path))
        assert (data.image_shape, data.stored_shape) == (own.image_shape, own.stored_shape)
        for train in (True, False):
            for one, other in zip(data.load(train), own.load(train), strict=True):
                assert torch.equal(one, other)


def test_arrays_get_the_channels_and_the_size_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path)
    write_cifar10(tmp_path, monkeypatch)
    colour = set_up("MNIST", tmp_path, "fit", grey=False, image_size=14)
    assert colour.make_batch(torch.arange(2)).image.shape == (2, 3, 14, 14)
    stored = colour.stored_images(torch.arange(2))
    assert torch.equal(stored[:, 0], stored[:, 2])
    grey = set_up("CIFAR10", tmp_path, "fit", grey=True)
    original = set_up("CIFAR10", tmp_path, "fit").stored_images(torch.arange(3))
    for image, shown in zip(original, grey.stored_images(torch.arange(3)), strict=True):
        pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")
        assert np.array_equal(shown[0].numpy(), np.array(pillow))


def test_a_file_that_another_program_compressed_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fashion_mnist(tmp_path, monkeypatch)  # such as Debian's, whose checksums are not torchvision's
    for file in (tmp_path / "FashionMNIST/raw").iterdir():
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert set_up("FashionMNIST", tmp_path, "fit").train_count == COUNT


def test_other_splits_are_chosen_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flowers102(tmp_path, monkeypatch)
    swapped = set_up("Flowers102", tmp_path, "fit", train_split="test", val_split="train", test_split="val")
    assert swapped.stored_images(swapped.train_positions)[:, 0, 0, 0].min() >= 1  # the made part 2
    with pytest.raises(UserError, match="val_split: dev found; Flowers102: Unknown value 'dev'"):
        TorchvisionDataModule("Flowers102", str(tmp_path), val_split="dev")


def test_files_are_streamed_above_the_limit_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    food101(tmp_path, monkeypatch)
    kept, streamed = (set_up("Food101", tmp_path, cache_limit=limit) for limit in (1, 0))
    assert torch.equal(kept.stored_images(torch.arange(COUNT)), streamed.stored_images(torch.arange(COUNT)))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("FashonMNIST", {}, "dataset: FashonMNIST found, .* such as FashionMNIST"),
        ("FakeData", {}, "dataset: FakeData found, which has no root folder"),
        ("EMNIST", {}, "dataset_kwargs: EMNIST: .* missing 1 required positional argument: 'split'"),
        ("EMNIST", {"dataset_kwargs": {"split": "words"}}, "dataset_kwargs: EMNIST: Unknown value 'words'"),
        (
            "FashionMNIST",
            {"dataset_kwargs": {"train": False}},
            "dataset_kwargs: train found, which the data module sets",
        ),
        ("FashionMNIST", {"val_split": "val"}, "val_split: val found, but torchvision's FashionMNIST has a training"),
        ("SVHN", {"dataset_kwargs": {"split": "extra"}}, "dataset_kwargs: split found; use train_split"),
        (
            "SVHN",
            {},
            r"SVHN: not found in ROOT and cannot be downloaded .*; put train_32x32.mat from http://.* into ROOT,",
        ),
        ("CIFAR100", {}, "CIFAR100: not found in ROOT/cifar-100-python .*; put cifar-100-python.tar.gz .* into ROOT,"),
        ("StanfordCars", {}, "StanfordCars: not found in ROOT/stanford_cars .*The original URL is broken"),
    ],
)
def test_what_cannot_be_read_is_one_line(name: str, options: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        TorchvisionDataModule(name, str(tmp_path), **options)
    assert "\n" not in str(caught.value)
    message = str(caught.value).replace(str(tmp_path), "ROOT")
    assert re.search(expected, message), message


def test_validation_images_are_tested_if_there_are_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    imagenette(tmp_path, monkeypatch)
    data = set_up("Imagenette", tmp_path, val_size=2)
    assert list(data.class_names) == ["tench", "English springer", "cassette player", "chain saw"]  # first synonyms
    counts = [len(data.train_positions), len(data.val_positions), data.test_count]
    assert (counts, data.test_part) == ([COUNT - 2, 2, COUNT], "val")
    assert "no test part found: a test measures the images of val/" in caplog.text


def test_a_test_part_without_labels_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clevr(tmp_path, monkeypatch)
    data = set_up("CLEVRClassification", tmp_path)
    assert (data.num_classes, data.test_part, data.test_count) == (4, "val", COUNT)


def test_stl10_s_unlabelled_images_are_trained_on_without_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stl10(tmp_path, monkeypatch)
    data = set_up("STL10", tmp_path, "fit", train_split="train+unlabeled", val_size=4)
    assert data.make_batch(data.train_positions).label.add(1).bincount().tolist() == [COUNT, 1, 1, 1, 1]
    assert data.make_batch(data.val_positions).label.bincount().tolist() == [1, 1, 1, 1]


def test_unlabelled_images_of_a_folder_come_beside_a_dataset_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    food101(tmp_path, monkeypatch)
    for i in range(3):
        picture(tmp_path / "more" / f"{i}.png", i)
    data = set_up("Food101", tmp_path, "fit", unlabelled=str(tmp_path / "more"))
    assert data.make_batch(data.train_positions).label.add(1).bincount().tolist() == [3, 2, 2, 2, 2]
    write_mnist(tmp_path)
    with pytest.raises(UserError, match="unlabelled: found, but MNIST has arrays; only images of files can be added"):
        TorchvisionDataModule("MNIST", str(tmp_path), unlabelled=str(tmp_path / "more"))


def test_missing_files_are_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar100(tmp_path / "made", monkeypatch)
    archive = shutil.make_archive(str(tmp_path / "served"), "gztar", tmp_path / "made")
    monkeypatch.setattr(CIFAR100, "tgz_md5", md5(Path(archive)))
    downloaded = []

    def download(url: str, file: str) -> None:
        downloaded.append(url)
        shutil.copy(archive, file)

    monkeypatch.setattr(torchvision_utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(torchvision_utils, "_urlretrieve", download)
    data = TorchvisionDataModule("CIFAR100", str(tmp_path / "root"))
    assert list(data.class_names) == ["apple", "fish", "baby", "bear"]
    data.prepare_data()
    assert downloaded == ["https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"]


def test_arrays_refuse_another_stored_size(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    with pytest.raises(UserError, match="stored_size: 14 found, but MNIST has arrays of 28 x 28; use image_size"):
        TorchvisionDataModule("MNIST", str(tmp_path), stored_size=14)
