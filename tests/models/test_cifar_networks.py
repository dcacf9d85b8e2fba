"""Networks of the distillation literature: their sizes, layers, initial weights, and files that others saved."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import Tensor, nn

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.data import ImageFolderDataModule
from kd_lightning.models import CifarResNet, WideResNet

X4 = [32, 64, 128, 256]


@pytest.mark.parametrize(
    ("network", "parameters"),
    [  # of the networks of RepDistiller with 100 classes, and of akamaster's with 10
        (CifarResNet(20, num_classes=100), 278_324),
        (CifarResNet(32, num_classes=100), 472_756),
        (CifarResNet(56, num_classes=100), 861_620),
        (CifarResNet(110, num_classes=100), 1_736_564),
        (CifarResNet(8, X4, num_classes=100), 1_233_540),
        (CifarResNet(32, X4, num_classes=100), 7_433_860),
        (WideResNet(16, 2, num_classes=100), 703_284),
        (WideResNet(40, 1, num_classes=100), 569_780),
        (WideResNet(40, 2, num_classes=100), 2_255_156),
        (CifarResNet(20, shortcut="pad"), 269_722),
        (CifarResNet(56, shortcut="pad"), 853_018),
    ],
)
def test_parameters_are_as_many_as_published(network: nn.Module, parameters: int) -> None:
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("network", "channels"), [(CifarResNet(8, X4), (64, 128, 256)), (WideResNet(10, 2, dropout=0.3), (32, 64, 128))]
)
def test_groups_and_the_pooled_vector_are_layers(network: nn.Module, channels: tuple[int, ...]) -> None:
    maps = {name: tuple(layer(torch.zeros(2, 3, 32, 32)).shape) for name, layer in heads(network).items()}
    expected = {f"layer{i}": (2, width, 64 >> i, 64 >> i) for i, width in enumerate(channels, start=1)}
    assert maps == {**expected, "flatten": (2, channels[-1])}


def heads(network: nn.Module) -> dict[str, nn.Sequential]:
    """The network up to each of the layers that feature losses name."""
    names = [name for name, _ in network.named_children()]
    modules = [*network.children()]
    wanted = ("layer1", "layer2", "layer3", "flatten")
    return {name: nn.Sequential(*modules[: names.index(name) + 1]) for name in wanted}


def test_a_block_adds_its_shortcut_before_the_last_relu() -> None:
    torch.manual_seed(0)
    block = CifarResNet(8, [2, 2, 4, 8]).eval().get_submodule("layer2.0")
    maps, recorded = torch.randn(1, 2, 4, 4), {}
    block.preact.register_forward_hook(lambda _, __, output: recorded.update(preact=output))
    convolved = F.conv2d(maps, block.conv1.weight, stride=2, padding=1) / (1 + 1e-5) ** 0.5
    convolved = F.conv2d(F.relu(convolved), block.conv2.weight, padding=1) / (1 + 1e-5) ** 0.5
    shortcut = F.conv2d(maps, block.downsample[0].weight, stride=2) / (1 + 1e-5) ** 0.5
    output = block(maps)
    torch.testing.assert_close(recorded["preact"], convolved + shortcut)
    torch.testing.assert_close(output, (convolved + shortcut).relu())
    assert (recorded["preact"] < 0).any()


def test_a_pre_activation_block_takes_its_shortcut_from_the_activated_input_where_channels_change() -> None:
    torch.manual_seed(0)
    network = WideResNet(16, 1).eval()
    maps = torch.randn(1, 16, 4, 4)
    for name, is_wider in (("layer1.0", False), ("layer2.0", True)):
        block = network.get_submodule(name)
        stride = 2 if is_wider else 1
        active = F.relu(maps / (1 + 1e-5) ** 0.5)
        residual = F.conv2d(active, block.conv1.weight, stride=stride, padding=1) / (1 + 1e-5) ** 0.5
        residual = F.conv2d(F.relu(residual), block.conv2.weight, padding=1)
        shortcut = F.conv2d(active, block.shortcut.weight, stride=2) if is_wider else maps
        torch.testing.assert_close(block(maps), residual + shortcut)


def test_a_shortcut_without_parameters_pads_channels_on_both_sides() -> None:
    shortcut = CifarResNet(8, [1, 1, 3, 3], shortcut="pad").get_submodule("layer2.0.downsample")
    maps = torch.arange(9.0).view(1, 1, 3, 3)
    zeros = [[0.0, 0.0], [0.0, 0.0]]
    assert shortcut(maps).tolist() == [[zeros, [[0.0, 2.0], [6.0, 8.0]], zeros]]


@pytest.mark.parametrize("network", [CifarResNet(8, X4), WideResNet(10, 4)])
def test_initial_convolutions_have_the_published_variance(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            outputs = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / outputs) ** 0.5, rel=0.03)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["CifarResNet", "--model.net.depth=18"], "depth 18 found, 6n + 2 expected, such as 8, 20, 32, 56 or 110"),
        (["CifarResNet", "--model.net.channels=[16,32,64]"], r"channels \[16, 32, 64\] found, four numbers expected"),
        (["CifarResNet", "--model.net.shortcut=pad", "--model.net.channels=[16,16,32,8]"], "channels 8 after 32 found"),
        (["WideResNet", "--model.net.depth=18"], "depth 18 found, 6n \\+ 4 expected, such as 16, 28 or 40"),
        (["WideResNet", "--model.net.widen_factor=0"], "widen_factor 0 found, at least 1 expected"),
    ],
)
def test_options_that_make_no_network_are_refused_in_one_line(
    words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model=kd_lightning.TeacherModule", f"--model.net=kd_lightning.{words[0]}", *words[1:]]
    assert main(["fit", *model, "--data=kd_lightning.DigitsDataModule"]) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(error.replace("6n + 2", "6n \\+ 2"), lines[0])


def files(network: nn.Module) -> dict[str, Tensor]:
    """The network's weights under the names of RepDistiller, mdistiller or akamaster."""
    theirs = {
        r"^layer([123])\.(\d)": r"block\1.layer.\2" if isinstance(network, WideResNet) else r"layer\1.\2",
        r"\bshortcut\.": "convShortcut.",
        r"^fc\.": "linear." if isinstance(network, CifarResNet) else "fc.",
    }
    found = {}
    for name, tensor in network.state_dict().items():
        for ours, other in theirs.items():
            name = re.sub(ours, other, name)
        found[name] = tensor
    return found


def test_files_of_other_projects_are_tested_and_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    random = np.random.default_rng(0)
    for folder in ("train/ant", "train/bee", "train/cow", "test/ant", "test/bee", "test/cow"):
        Path(folder).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(Path(folder, f"{i}.png"))
    torch.manual_seed(1)
    published = WideResNet(10, 1, num_classes=3)
    torch.save({"model": files(published), "epoch": 240}, "ckpt_epoch_240.pth")
    akamaster = CifarResNet(8, [4, 4, 8, 16], shortcut="pad", num_classes=3)
    torch.save({"state_dict": {f"module.{name}": it for name, it in files(akamaster).items()}}, "resnet8.th")
    channels = {"student_channels": 16, "teacher_channels": 64}
    match = {
        "student_layer": "layer3",
        "teacher_layer": "layer3",
        "loss": {"class_path": "kd_lightning.FeatureMapLoss", "init_args": channels},
    }
    small = {"depth": 8, "channels": [4, 4, 8, 16], "shortcut": "pad"}
    options: dict[str, Any] = {
        "net": {"class_path": "kd_lightning.CifarResNet", "init_args": small},
        "teacher": {"class_path": "kd_lightning.WideResNet", "init_args": {"depth": 10, "widen_factor": 1}},
        "teacher_ckpt": "ckpt_epoch_240.pth",
        "features": [match],
        "feature_weight": 1.0,
    }
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs", "version": "s"}}
    config = {
        "model": {"class_path": "kd_lightning.DistillModule", "init_args": options},
        "data": {"class_path": "kd_lightning.ImageFolderDataModule", "init_args": {"root": ".", "image_size": 8}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": logger, "enable_model_summary": False},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "--config=config.yaml", "--ckpt_path=resnet8.th", "--pictures=false"]) == 0
    (results,) = Path("logs").rglob("results.json")
    tested = json.loads(results.read_text())["test"]["errors"]
    trained = lightning.main(["fit", "--config=config.yaml"]).model
    data = ImageFolderDataModule(".", 8)
    data.prepare_data()
    image, label = data.load(train=False)[:2]
    shown = (image / 255 - data.mean.view(3, 1, 1)) / data.std.view(3, 1, 1)
    predicted = akamaster.eval()(shown).argmax(dim=1)
    assert len(predicted.unique()) > 1
    assert tested == (predicted != label).sum()
    for name, tensor in trained.teacher.network.state_dict().items():
        assert torch.equal(tensor, published.state_dict()[name]), name
