"""Run the code of docs/teachers.md."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torchvision.models import mobilenet_v3_small

from kd_lightning.cli import lightning
from kd_lightning.models import CifarResNet
from kd_lightning.teachers import load_teacher
from tests.test_shown_code import block, images

PAGE = "docs/teachers.md"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    images(".", ("train/ant", "train/bee", "test/ant", "test/bee"), 2, 32)


def student_of(first: str, **options: Any) -> Any:
    """Train LightNN for one step on a folder of images, with the teacher of the block that begins with a line."""
    net = {"class_path": "kd_lightning.LightNN"}
    shown = yaml.safe_load(block(PAGE, first))
    model = {"class_path": "kd_lightning.DistillModule", "init_args": {"net": net, **shown, **options}}
    data = {"class_path": "kd_lightning.ImageFolderDataModule", "init_args": {"root": ".", "image_size": 32}}
    trainer = {"logger": False, "max_epochs": 1, "enable_model_summary": False, "limit_train_batches": 1}
    Path("student.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))
    return lightning.main(["fit", "--config=student.yaml"]).model


def test_a_teacher_of_another_input_is_built_as_shown() -> None:
    torch.save(mobilenet_v3_small(num_classes=2).state_dict(), "teacher.pth")
    teacher = student_of("# a teacher for images of 224 pixels").teacher.network
    assert teacher.convert(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 224, 224)


MINE = """
import torch

def teacher(num_classes=10):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, num_classes))
    torch.nn.init.constant_(network[1].weight, {weight})
    return network
"""


def test_a_teacher_as_it_was_built_is_cached_under_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(".")
    monkeypatch.setenv("KD_LIGHTNING_CACHE", "caches")
    kept = []
    for weight in (0.25, 0.25, 0.125):
        Path("mine.py").write_text(MINE.format(weight=weight))
        module = student_of("# a teacher with the weights that its function loads", cache_teacher="all")
        sys.modules.pop("mine")
        kept.append([*Path("caches/teacher_logits").glob("Sequential.logits-*")])
        (figures,) = module.trainer.test(module, module.trainer.datamodule, verbose=False)
        assert "test/agreement" in figures
    assert [len(files) for files in kept] == [1, 1, 2]


def test_a_teacher_of_the_literature_is_read_as_shown() -> None:
    published = CifarResNet(20, shortcut="pad", num_classes=2).state_dict()
    theirs = {f"module.{name.replace('fc.', 'linear.')}": it for name, it in published.items() if "num_" not in name}
    torch.save({"state_dict": theirs, "best_prec1": 91.7}, "resnet20-12fca82f.th")
    teacher = student_of("# akamaster's ResNet-20, from the file as published").teacher.network
    assert all(torch.equal(tensor, published[name]) for name, tensor in teacher.state_dict().items())


def test_a_teacher_of_more_classes_is_matched_as_shown() -> None:
    torch.save(mobilenet_v3_small(num_classes=4).state_dict(), "teacher.pth")
    module = student_of("# a teacher of four classes, two of which are the data's")
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(module.run_teacher(image), module.teacher.network(image)[:, [3, 1]])
    Path("classes.txt").write_text("cow\nbee\n\ndog\nant\n", encoding="utf-8")
    assert load_teacher(module.teacher.network, None, "classes.txt")[0].class_names == ("cow", "bee", "dog", "ant")


def test_a_teacher_without_classes_is_learned_from_as_shown() -> None:
    timm = pytest.importorskip("timm")
    save_file(timm.create_model("mobilenetv3_small_050", num_classes=0).state_dict(), "embedding.safetensors")
    module = student_of("# a teacher that returns embeddings of 1024 numbers")
    assert {"train/hard_loss", "train/feature_loss"} < set(module.trainer.callback_metrics)
    assert "train/soft_loss" not in module.trainer.callback_metrics
    (figures,) = module.trainer.test(module, module.trainer.datamodule, verbose=False)
    assert "test/agreement" not in figures
