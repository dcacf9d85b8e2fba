"""A user's network with weights that somebody else published: tested, and a teacher of another normalisation."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.data import ImageFolderDataModule

CODE = """
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.stride, self.half = stride, (channels - channels_in) // 2

    def forward(self, x):
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.half, self.half))
        return F.relu(self.bn1(self.conv1(x)) + shortcut)


class ResNet(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.layer1 = nn.Sequential(Block(4, 4, 1), Block(4, 8, 2))
        self.linear = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.linear(self.layer1(F.relu(self.conv1(x))).mean(dim=(2, 3)))


def resnet6(num_classes=10):
    return ResNet(num_classes)
"""
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(autouse=True)
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a user's network file, published weights as of 2018, and folders of images; return the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    Path("resnet.py").write_text(CODE)
    from resnet import resnet6  # type: ignore[import-not-found]

    torch.manual_seed(0)
    made = resnet6(3).eval()
    with torch.no_grad():
        made.linear.weight.mul_(20)  # so that its predictions differ
    state = {f"module.{name}": value for name, value in made.state_dict().items() if "num_batches" not in name}
    torch.save({"state_dict": state, "best_prec1": np.float64(93.4)}, "resnet6.th")
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 20)):
        for number, name in enumerate(("ant", "bee", "cow")):
            folder = Path("images", part, name)
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 256, (8, 8, 3)) // 2 + 60 * np.eye(3)[number]
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    yield made
    sys.modules.pop("resnet")


def words(command: str, model: dict[str, Any], **options: Any) -> list[str]:
    init = {"root": "images", "image_size": 8, **options}
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs", "version": "s"}}
    config = {
        "model": model,
        "data": {"class_path": "kd_lightning.ImageFolderDataModule", "init_args": init},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": logger, "enable_model_summary": False},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    return [command, "--config=config.yaml"]


def test_its_errors_are_those_of_a_plain_loop(network: Any) -> None:
    model = {"class_path": "kd_lightning.TeacherModule", "init_args": {"net": {"class_path": "resnet.resnet6"}}}
    assert main([*words("test", model), "--ckpt_path=resnet6.th", "--pictures=false"]) == 0
    (file,) = Path("logs").rglob("results.json")
    errors = 0
    for number, name in enumerate(("ant", "bee", "cow")):
        for image in Path("images", "test", name).iterdir():
            pixels = torch.from_numpy(np.asarray(Image.open(image))).permute(2, 0, 1) / 255
            shown = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
            errors += int(network(shown[None]).argmax()) != number
    assert 0 < errors < 60
    assert json.loads(file.read_text())["test"]["errors"] == errors


def test_a_student_of_another_normalisation_learns_from_its_logits(network: Any) -> None:
    student = {"class_path": "kd_lightning.CNN", "init_args": {"in_channels": 3, "image_size": 8, "channels": [4]}}
    own = {"network": {"class_path": "resnet.resnet6"}, "mean": MEAN, "std": STD}
    teacher = {"class_path": "kd_lightning.OwnInput", "init_args": own}
    options = {"net": student, "teacher": teacher, "teacher_ckpt": "resnet6.th", "cache_teacher": "all"}
    model = {"class_path": "kd_lightning.DistillModule", "init_args": options}
    module = lightning.main(words("fit", model, mean=[0.5], std=[0.25])).model
    assert len([*Path().glob("resnet6.th.logits-*")]) == 1
    datas = [ImageFolderDataModule("images", 8, mean=mean, std=std) for mean, std in (([0.5], [0.25]), (MEAN, STD))]
    for data in datas:
        data.setup("fit")
    ours, theirs = (data.make_batch(torch.arange(24)).image for data in datas)
    torch.testing.assert_close(module.run_teacher(ours), network(theirs), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(F.softmax(network(ours), 1), F.softmax(network(theirs), 1), atol=1e-2)
