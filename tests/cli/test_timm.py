"""Networks of timm by their name alone: trained, exported and used without a config."""

import sys
from pathlib import Path

import pytest
import yaml
from torch import nn

from kd_lightning.__main__ import main
from kd_lightning.cli.lightning import build
from tests.cli.test_choices import refused, write_config

timm = pytest.importorskip("timm")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def config(name: str, **options: object) -> str:
    return write_config(net={"class_path": "timm.create_model", "init_args": {"model_name": name, **options}})


def test_classes_and_channels_are_those_of_the_data_and_the_checkpoint_needs_no_config() -> None:
    assert main(["fit", config("mobilenetv3_small_050")]) == 0
    run = Path("lightning_logs/version_0")
    net = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["net"]
    assert net["dict_kwargs"] == {"num_classes": 10, "in_chans": 1}
    assert main(["export", str(run), "--format", "torch"]) == 0


def test_a_transformer_is_built_for_the_image_size_of_the_data() -> None:
    net = build(["fit", config("vit_tiny_patch16_224", patch_size=2, depth=1)]).model.net
    assert net.patch_embed.img_size == (8, 8)
    given = build(["fit", config("vit_tiny_patch16_224", patch_size=2, depth=1, img_size=16)]).model.net
    assert given.patch_embed.img_size == (16, 16)


def test_published_weights_are_not_downloaded_where_a_checkpoint_replaces_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    original = timm.models._builder.load_pretrained
    monkeypatch.setattr(timm.models._builder, "load_pretrained", lambda *args, **_: asked.append(args) or original)
    assert main(["fit", config("resnet18", pretrained=True)]) == 0
    assert len(asked) == 1
    given = "--config=given.yaml"
    assert main(["test", given, "--ckpt_path=lightning_logs/version_0", "--pictures=false"]) == 0
    student = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 10]}}
    teacher = {"class_path": "timm.create_model", "init_args": {"model_name": "resnet18", "pretrained": True}}
    words = ["--model=kd_lightning.DistillModule", f"--model.net={student}", f"--model.teacher={teacher}"]
    words += ["--model.teacher_ckpt=lightning_logs/version_0", "--data=kd_lightning.DigitsDataModule"]
    built = build(["fit", *words])
    assert isinstance(built.model.teacher.network, nn.Module)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"name": "resnet1"}, "model_name: resnet1 found, the name of a network of timm expected, such as resnet18"),
        ({"name": "resnet18", "pretrained": True}, "its published weights cannot be downloaded (no route to host)"),
        ({"name": "resnet18", "depth": 3}, "cannot be built (ResNet.__init__() got an unexpected keyword argument"),
        (
            {"name": "vit_tiny_patch16_224", "patch_size": 2, "depth": 1, "img_size": 6},
            "network: VisionTransformer cannot read images of 1x8x8 (Input height (8) doesn't match model (6).)",
        ),
    ],
)
def test_networks_that_cannot_be_built_are_one_line(
    options: dict, problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    # Raised in a function of the hub's module, as a failed download is.
    namespace = {"__name__": "huggingface_hub.file_download", "unreachable": unreachable}
    exec("def download(*args, **options):\n    unreachable()", namespace)
    monkeypatch.setattr(timm.models._hub, "hf_hub_download", namespace["download"])
    assert problem in refused(capsys, "fit", config(**options))
