"""Hugging Face's image classifiers, and networks of torch.hub, as any other network."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd_lightning.__main__ import main
from tests.cli.test_choices import refused, write_config

transformers = pytest.importorskip("transformers")

SMALL = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
CLASS = "transformers.ResNetForImageClassification"
FROM_CONFIG = {
    "class_path": CLASS,
    "init_args": {"config": {"class_path": "transformers.ResNetConfig", "init_args": SMALL}},
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def from_pretrained(class_path: str, name: str) -> dict[str, Any]:
    options = {"pretrained_model_name_or_path": name, "ignore_mismatched_sizes": True}
    return {"class_path": f"{class_path}.from_pretrained", "init_args": options}


def save_published() -> None:
    """Save a network of five classes and one channel as Hugging Face does."""
    config = transformers.ResNetConfig(**SMALL, num_channels=1, num_labels=5)
    transformers.ResNetForImageClassification(config).save_pretrained("published")


def test_the_config_gets_classes_and_channels_and_the_logits_are_exported() -> None:
    assert main(["fit", write_config(net=FROM_CONFIG)]) == 0
    run = "lightning_logs/version_0"
    saved = yaml.safe_load(Path(run, "config.yaml").read_text())["model"]["init_args"]["net"]["init_args"]["config"]
    assert saved["init_args"]["num_channels"] == 1
    assert [*map(str, saved["init_args"]["id2label"].values())] == [*"0123456789"]
    assert main(["test", f"--config={run}/config.yaml", "--pictures=false"]) == 0
    assert main(["export", run, f"--config={run}/config.yaml", "--format", "torch"]) == 0


@pytest.mark.parametrize("class_path", [CLASS, "transformers.AutoModelForImageClassification"])
def test_published_networks_get_a_head_for_the_classes_and_teach(class_path: str) -> None:
    save_published()
    teacher = from_pretrained(class_path, "published")
    assert main(["fit", write_config(net=teacher)]) == 0
    student = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 10]}}
    words = ["--model=kd_lightning.DistillModule", f"--model.net={student}", f"--model.teacher={teacher}"]
    words += ["--model.teacher_ckpt=lightning_logs/version_0", "--data=kd_lightning.DigitsDataModule"]
    assert main(["fit", *words, "--data.train_size=64", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]) == 0


def test_a_hub_that_cannot_be_reached_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    net = from_pretrained(CLASS, "someone/no-such-network")
    assert "from_pretrained(pretrained_model_name_or_path='someone/no-such-network'" in refused(
        capsys, "fit", write_config(net=net)
    )


def test_a_network_of_torch_hub_gets_the_classes() -> None:
    Path("hub").mkdir()
    Path("hub/hubconf.py").write_text(
        "from torch.nn import Flatten, Linear, Sequential\n"
        "def tiny(num_classes=5):\n    return Sequential(Flatten(), Linear(64, num_classes))\n"
    )
    options = {"repo_or_dir": "hub", "model": "tiny", "source": "local"}
    assert main(["fit", write_config(net={"class_path": "torch.hub.load", "init_args": options})]) == 0
