"""A teacher with more classes than its student's data, or the same in another order."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch import nn

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.models import MLP
from kd_lightning.modules import DistillModule, TeacherModule
from kd_lightning.teachers import EnsembleTeacher
from tests.modules.test_other_data import QUIET, Named

MORE = ("dog", "cow", "ant", "elk", "bee")
"""Classes of a teacher; the data has ant, bee and cow."""
PLACES = [2, 4, 1]


@pytest.fixture(autouse=True)
def _teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    torch.manual_seed(0)
    trainer = Trainer(max_epochs=0, **QUIET)
    module = TeacherModule(MLP([36, 5]))
    trainer.fit(module, Named(MORE))
    trainer.save_checkpoint("more.ckpt")
    torch.save(module.net.state_dict(), "more.pt")


def words(command: str = "fit", **options: Any) -> list[str]:
    def network(classes: int) -> dict[str, Any]:
        return {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [36, classes]}}

    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs", "version": "s"}}
    model = {"net": network(3), "teacher": network(5), "teacher_ckpt": "more.pt", **options}
    config = {
        "model": {"class_path": "kd_lightning.DistillModule", "init_args": model},
        "data": {"class_path": "tests.modules.test_other_data.Named"},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": logger, "enable_model_summary": False},
    }
    Path("student.yaml").write_text(yaml.safe_dump(config))
    return [command, "--config=student.yaml"]


@pytest.mark.parametrize(
    "options",
    [
        {"teacher_ckpt": "more.ckpt"},
        {"teacher_classes": list(MORE)},
        {"teacher_classes": "more.txt"},
        {"teacher_ckpt": "more.ckpt", "teacher_classes": list(MORE), "cache_teacher": "all"},
    ],
    ids=["of its checkpoint", "a list", "a file", "cached"],
)
def test_the_data_s_classes_are_selected(options: dict[str, Any], caplog: Any) -> None:
    Path("more.txt").write_text("\n".join(MORE))
    module = lightning.main(words(**options)).model
    image = torch.rand(4, 1, 6, 6)
    expected = module.teacher.network(image)[:, PLACES]
    assert torch.equal(module.run_teacher(image), expected)
    said = [record.message for record in caplog.records if "more classes than the data" in record.message]
    assert len(said) == 1
    assert "has 2 more classes than the data; its logits are permuted to the data's ([ant, bee, cow])" in said[0]


def test_its_student_is_tested_with_its_agreement() -> None:
    config = words(teacher_classes=list(MORE))
    assert main(config) == 0
    assert main(["test", *config[1:], "--pictures=false"]) == 0
    (file,) = Path("logs").rglob("results.json")
    assert {"agreement", "teacher_kl"} < set(json.loads(file.read_text())["test"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "teacher: MLP has 5 classes, the data has 3; name its classes: teacher_classes"),
        (
            {"teacher_classes": [*"abcde"]},
            "teacher_classes: no overlap of class names: [a, b, c, d, e] found, the data has [ant, bee, cow]",
        ),
        (
            {"teacher_classes": ["ant", "bee", "dog", "elk", "ant"]},
            "teacher_classes: [ant, cow] of the data expected once each, found are [ant, bee, dog, elk, ant]",
        ),
        ({"teacher_classes": ["bee", "ant", "cow", "dog"]}, "teacher: output of shape (2, 5) found, 4 logits expected"),
        ({"teacher_classes": "absent.txt"}, "teacher_classes: absent.txt cannot be read ("),
        ({"teacher_classes": []}, "teacher_classes: no names found, one for each output of the teacher expected"),
        (
            {"teacher_ckpt": "more.ckpt", "teacher_classes": ["ant", "bee", "elk", "dog", "emu"]},
            "more.ckpt was trained with class_names [elk, dog, emu] (the data has [cow]); make the data like that",
        ),
        (
            {"teacher_ckpt": "more.ckpt", "teacher_classes": [*"abcde"]},
            "class_names [a, b, c, d, e] (the data has [ant, bee, cow], no overlap of class names)",
        ),
    ],
)
def test_what_cannot_be_matched_is_one_line(options: dict[str, Any], said: str, capsys: Any) -> None:
    assert main(words(**options)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd-lightning:")]
    assert said in line


def test_members_of_an_ensemble_have_classes_of_their_own() -> None:
    trainer = Trainer(max_epochs=0, **QUIET)
    trainer.fit(TeacherModule(MLP([36, 3])), Named(("cow", "ant", "bee")))
    trainer.save_checkpoint("same.ckpt")
    ensemble = EnsembleTeacher([MLP([36, 5]), MLP([36, 3])])
    module = DistillModule(MLP([36, 3]), ensemble, ["more.ckpt", "same.ckpt"])
    Trainer(max_epochs=0, **QUIET).fit(module, Named())
    image = torch.rand(4, 1, 6, 6)
    more, same = ensemble.members
    expected = (more(image)[:, PLACES] + same(image)[:, [1, 2, 0]]) / 2
    torch.testing.assert_close(module.run_teacher(image), expected)


def test_a_network_of_hugging_face_states_its_classes() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))
    network.config = SimpleNamespace(id2label=dict(enumerate(MORE)))
    module = DistillModule(MLP([36, 3]), network)
    Trainer(max_epochs=0, **QUIET).fit(module, Named())
    image = torch.rand(4, 1, 6, 6)
    assert torch.equal(module.run_teacher(image), network(image)[:, PLACES])


def pretrained(num_classes: int = 5, pretrained: bool = False) -> nn.Module:
    """A factory like timm's, whose published weights are of five classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(36, num_classes))


def test_a_published_head_is_kept_and_another_one_replaced() -> None:
    made = {"class_path": f"{__name__}.pretrained", "init_args": {"pretrained": True}}
    assert lightning.build(words(teacher=made, teacher_ckpt=None)).model.teacher.network[1].out_features == 5
    assert lightning.build(words(teacher=made, teacher_classes=[*MORE])).model.teacher.network[1].out_features == 5
    made["init_args"]["pretrained"] = False
    assert lightning.build(words(teacher=made, teacher_ckpt=None)).model.teacher.network[1].out_features == 3
