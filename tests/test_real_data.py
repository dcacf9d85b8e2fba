"""On real files: `KD_LIGHTNING_DATA=PATH pytest -m real_data`.

PATH/MNIST/raw holds MNIST's own four files; PATH/dogs-vs-cats-128px.tar.gz, where it is there, some of Kaggle's
photographs.
"""

import os
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from kd_lightning.__main__ import main
from kd_lightning.data import DogsVsCatsDataModule, MNISTDataModule
from kd_lightning.reports.results import read_results

pytestmark = pytest.mark.real_data


@pytest.fixture
def root():
    if "KD_LIGHTNING_DATA" not in os.environ:
        pytest.skip("KD_LIGHTNING_DATA names no torchvision root")
    return Path(os.environ["KD_LIGHTNING_DATA"]).resolve()


def test_the_transfer_set_is_the_first_ten_thousand_images_in_file_order(root):
    data = MNISTDataModule(root=str(root), train_size=10_000, batch_size=32, shuffle=False)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    dealt = torch.cat(list(data.train_dataloader()))
    assert dealt.tolist() == list(range(10_000))
    batch = data.make_batch(dealt)
    # Counts of the digits 0 to 9 in the first 10,000 labels of train-labels-idx1-ubyte.
    assert batch.label.bincount().tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    assert batch.label[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


def test_the_normalised_training_pixels_have_mean_0_and_deviation_1(root):
    data = MNISTDataModule(root=str(root))
    data.setup("fit")
    image = data.make_batch(torch.arange(60_000)).image
    assert image.mean().item() == pytest.approx(0, abs=1e-3)
    assert image.std().item() == pytest.approx(1, abs=1e-3)


def test_a_distilled_student_beats_its_baseline_on_the_transfer_set(root, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    monkeypatch.chdir(tmp_path)
    short = ("--seeds=1", "--trainer.max_epochs=5")
    assert main(["reproduce", "mnist_transfer", f"--data.root={root}", *short]) == 0
    runs = tmp_path / "lightning_logs" / "mnist_transfer"
    right = {run.parent.name: read_results(run)["test"]["right"] for run in runs.glob("*/seed_0")}
    assert right["teacher"] > 9750
    assert right["distill"] > right["baseline"]


def test_photographs_are_split_and_decoded_as_pillow_does(root, tmp_path):
    archive = root / "dogs-vs-cats-128px.tar.gz"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with tarfile.open(archive) as content:
        content.extractall(tmp_path, filter="data")
    data = DogsVsCatsDataModule(str(tmp_path / "dogs-vs-cats"), mean=[0.0], std=[1.0])
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert [len(data.train_positions), len(data.val_positions)] == [2800, 800]
    labels = data.make_batch(data.train_positions).label
    assert labels.bincount().tolist() == [1400, 1400]
    test = data.make_batch(torch.arange(400), train=False)
    assert test.label.bincount().tolist() == [200, 200]
    for place in (0, 399):
        photograph = Image.open(tmp_path / "dogs-vs-cats" / data.test_names[place]).convert("RGB")
        expected = pil_to_tensor(photograph.resize((128, 128), Image.Resampling.BILINEAR)) / 255
        torch.testing.assert_close(test.image[place], expected)
