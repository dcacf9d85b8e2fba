"""A network from what a file says of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from jsonargparse import ArgumentParser
from torch import nn
from torchvision.models import list_models, mobilenet_v3_small, regnet_x_400mf

from kd_lightning.checkpoints.description import plain_network
from kd_lightning.errors import UserError
from kd_lightning.export import rebuild
from kd_lightning.models import MLP

FILE = Path("some.ckpt")


def recorded(class_path: Any, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


@pytest.fixture(autouse=True)
def _nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: object, **__: object) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", called)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", called)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))


def test_a_network_of_ours_is_made_with_its_weights() -> None:
    network = MLP([4, 3, 2], hidden_dropout=0.5)
    found = rebuild(recorded("kd_lightning.models.MLP", widths=[4, 3, 2]), network.state_dict(), FILE, "model")
    assert not found.training
    assert all(torch.equal(found.state_dict()[name], weight) for name, weight in network.state_dict().items())


@pytest.mark.parametrize("options", [{"weights": "DEFAULT"}, {"pretrained": True}, {}])
def test_published_weights_are_not_fetched_for_a_network_that_brings_its_own(options: dict[str, Any]) -> None:
    state = mobilenet_v3_small(num_classes=3).state_dict()
    path = "torchvision.models.mobilenet_v3_small"
    named = {"class_path": path, "init_args": options, "dict_kwargs": {"num_classes": 3}}
    assert rebuild(named, state, FILE, "model").classifier[3].out_features == 3
    ours = recorded("kd_lightning.models.pretrained", name="mobilenet_v3_small", num_classes=3, **options)
    assert rebuild(ours, state, FILE, "model").classifier[3].out_features == 3


def test_a_network_that_counts_while_it_is_made_is_made_too() -> None:
    state = regnet_x_400mf(num_classes=3).state_dict()
    assert (
        rebuild(recorded("torchvision.models.regnet_x_400mf", num_classes=3), state, FILE, "model").fc.out_features == 3
    )


@pytest.mark.parametrize(
    "class_path",
    [
        "os.system",
        "torch.nn.Linear",
        "torch.hub.load",
        "kd_lightning.models.pretrained.torch.hub.load",
        "kd_lightning.models.__loader__",
        "kd_lightning.models",
        "torchvision.models.get_model",
        "torchvision.models.detection.fasterrcnn_resnet50_fpn",
        "torchvision.models.quantization.resnet18",
        "",
        None,
        ["os.system"],
    ],
)
def test_a_file_names_networks_of_two_packages_alone(class_path: Any) -> None:
    with pytest.raises(UserError, match=r"may name those of kd_lightning\.models, torchvision.models and timm alone"):
        rebuild(recorded(class_path, command="touch ran"), {}, FILE, "model")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (recorded("torchvision.models.resnet18", norm_layer="os._exit"), "cannot be built"),
        (
            recorded("torchvision.models.resnet18", norm_layer={"class_path": "os.system", "init_args": {}}),
            "norm_layer: something else found among the options of torchvision.models.resnet18, a number, a word",
        ),
        (recorded("kd_lightning.models.MLP", widths=[4]), "cannot be built"),
        (recorded("kd_lightning.models.MLP", widths="os.system"), "cannot be built"),
        (recorded("kd_lightning.models.MLP", nonsense=1), "cannot be built"),
        (recorded("kd_lightning.models.MLP"), "cannot be built"),
        (recorded("kd_lightning.models.MLP", widths=[4, 5, 2]), "linear1.weight is 3x4 in the file and 5x4"),
        (recorded("kd_lightning.models.MLP", widths=[10**6, 10**6, 2]), "linear1.weight is 3x4 in the file"),
        (recorded("kd_lightning.models.pretrained", name="os.system"), "name: os.system found"),
        ({"class_path": "kd_lightning.models.MLP", "init_args": "os.system"}, "cannot be built"),
        ("os.system", "is None, and a file may name"),
    ],
)
def test_options_that_do_not_fit_are_one_line(named: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rebuild(named, MLP([4, 3, 2]).state_dict(), FILE, "model")


VIT = {"image_size": 32, "patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}


@pytest.mark.parametrize(
    ("class_path", "options"),
    [
        ("torchvision.models.VisionTransformer", VIT),
        ("torchvision.models.vision_transformer.VisionTransformer", VIT),
        ("torchvision.models.DenseNet", {"block_config": [1, 1, 1, 1], "num_classes": 3}),
        ("torchvision.models.MobileNetV2", {"num_classes": 3}),
        ("torchvision.models.squeezenet.squeezenet1_1", {"num_classes": 3}),
    ],
)
def test_networks_of_torchvision_are_made_by_class_and_by_the_module_that_defines_them(
    class_path: str, options: dict[str, Any]
) -> None:
    parser = ArgumentParser()
    parser.add_argument("--net", type=nn.Module)
    config = parser.parse_object({"net": {"class_path": class_path, "init_args": options}})
    network = parser.instantiate(config).net
    found = rebuild(plain_network(config.net), network.state_dict(), FILE, "model")
    assert all(torch.equal(found.state_dict()[name], weight) for name, weight in network.state_dict().items())
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(found(image), network.eval()(image))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (
            recorded("torchvision.models.ResNet", block="<class 'torchvision.models.resnet.BasicBlock'>", layers=[1]),
            "block found to be <class 'torchvision.models.resnet.BasicBlock'>, which is code; where you trust it",
        ),
        (
            recorded("torchvision.models.VisionTransformer", **VIT, norm_layer="os.system"),
            "norm_layer found to be os.system, which is code",
        ),
        (recorded("torchvision.models.resnet18", norm_layer="os.system"), "cannot be built"),
        (recorded("torchvision.models.ConvNeXt", block_setting=[{"class_path": "os.system"}]), "something else found"),
        (recorded("torchvision.models.VGG", features="os.system"), "features found to be os.system, which is code"),
        (
            recorded("torchvision.models.detection.FasterRCNN"),
            "of kd_lightning.models, torchvision.models and timm alone that",
        ),
    ],
)
def test_a_class_of_torchvision_that_takes_code_says_what_to_do(named: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rebuild(named, {}, FILE, "model")


def nested(depth: int) -> list[Any]:
    """A list of two lists that are one, and so on: 2 ** depth numbers, and few bytes."""
    level: list[Any] = [4]
    for _ in range(depth):
        level = [level, level]
    return level


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (recorded("kd_lightning.models.MLP", widths=nested(60)), "none of them huge"),
        (recorded("kd_lightning.models.MLP", widths=[4] * 100_000), "none of them huge"),
        (recorded("torchvision.models.regnet_x_400mf", num_classes=10**9), "none of them huge"),
        (recorded("torchvision.models.VisionTransformer", **{**VIT, "num_layers": 10**9}), "none of them huge"),
        (recorded("torchvision.models.VisionTransformer", **{**VIT, "num_layers": 10**6}), "more than 5000 tensors"),
        (recorded("torchvision.models.mobilenet_v2", inverted_residual_setting=[[1, 4, 10**6, 1]]), "more than 5000"),
    ],
)
def test_options_that_would_take_hours_or_terabytes_are_one_line(named: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rebuild(named, {}, FILE, "model")


def test_weights_that_repeat_one_number_over_a_large_shape_take_no_memory() -> None:
    state = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in planned([60_000, 60_000, 2]).items()}
    with pytest.raises(UserError, match=r"the weights in .* need 13,733"):
        rebuild(recorded("kd_lightning.models.MLP", widths=[60_000, 60_000, 2]), state, FILE, "model")


def planned(widths: list[int]) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return MLP(widths).state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models(module=torchvision.models))
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_every_network_of_torchvision_can_be_planned(name: str) -> None:
    with pytest.raises(UserError, match="is missing"):
        rebuild(recorded(f"torchvision.models.{name}"), {"model": {"a": torch.zeros(1)}}, FILE, "model")
