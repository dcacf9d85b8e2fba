"""What a checkpoint says of itself."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from kd_lightning.__main__ import main
from kd_lightning.callbacks import Describer
from kd_lightning.models import MLP
from kd_lightning.modules import TeacherModule
from tests.data.made import MadeDataModule

FIT = ["fit", "--model=kd_lightning.modules.TeacherModule", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
LAST = Path("lightning_logs/version_0/checkpoints/last.ckpt")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def said() -> dict[str, Any]:
    return torch.load(LAST, weights_only=True)["description"]


def test_a_checkpoint_says_how_its_network_is_made_and_what_it_reads() -> None:
    net = ["--model.net=kd_lightning.models.MLP", "--model.net.widths=[64,10]", "--model.net.hidden_dropout=0.5"]
    assert main([*FIT, *net, "--data=kd_lightning.data.DigitsDataModule"]) == 0
    init_args = {"widths": [64, 10], "input_dropout": 0.0, "hidden_dropout": 0.5}
    found = said()
    assert found.pop("mean") == pytest.approx([0.3054])
    assert found.pop("std") == pytest.approx([0.3755])
    assert found == {
        "network": {"class_path": "kd_lightning.models.MLP", "init_args": init_args},
        "class_names": [*"0123456789"],
        "image_shape": [1, 8, 8],
        "stored_shape": [1, 8, 8],
        "crop": True,
    }


def test_classes_that_the_data_settled_are_said() -> None:
    net = ["--model.net=torchvision.models.squeezenet1_1", f"--data={__name__}.Colours"]
    assert main([*FIT, *net, "--data.batch_size=12"]) == 0
    network = said()["network"]
    assert network["class_path"] == "torchvision.models.squeezenet1_1"
    assert {**network["init_args"], **network.get("dict_kwargs", {})}["num_classes"] == 3


class Colours(MadeDataModule):
    image_shape = (3, 36, 36)


def test_a_module_made_in_python_has_no_network_that_is_named() -> None:
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[Describer(None)], logger=False, enable_model_summary=False
    )
    trainer.fit(TeacherModule(MLP([36, 3])), MadeDataModule(batch_size=8))
    (file,) = Path("checkpoints").iterdir()
    found = torch.load(file, weights_only=True)["description"]
    assert found["network"] is None
    assert found["class_names"] == ["ant", "bee", "cow"]


def test_weights_alone_are_used_with_the_config_of_their_run() -> None:
    net = ["--model.net=kd_lightning.models.MLP", "--model.net.widths=[64,10]"]
    kept = ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.save_weights_only=true"]
    kept += ["--trainer.callbacks.filename=alone"]
    assert main([*FIT, *net, *kept, "--data=kd_lightning.data.DigitsDataModule"]) == 0
    Image.new("L", (8, 8)).save("image.png")
    file = LAST.with_name("alone.ckpt")
    assert torch.load(file, weights_only=True)["description"]["network"] is None
    assert main(["predict", str(file), "image.png"]) == 0
