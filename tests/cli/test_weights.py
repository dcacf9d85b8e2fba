"""Weights that others trained, by the words a user types."""

import sys
from pathlib import Path

import pytest
import torch

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.models import MLP

DATA = ["--data=kd_lightning.data.DigitsDataModule", "--trainer.logger=false", "--trainer.accelerator=cpu"]
NET = ["--model.net=kd_lightning.models.MLP", "--model.net.widths=[64,10]"]
TEACHER = ["--model=kd_lightning.modules.TeacherModule", *NET, *DATA]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


@pytest.fixture
def theirs():
    torch.manual_seed(0)
    state = MLP([64, 10]).state_dict()
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, "theirs.pth")
    return state


def test_a_file_of_weights_is_tested_and_is_no_checkpoint_to_go_on_from(theirs, capsys):
    tested = lightning.main(["test", *TEACHER, "--ckpt_path=theirs.pth"])
    assert all(torch.equal(tested.model.net.state_dict()[name], tensor) for name, tensor in theirs.items())
    assert main(["fit", *TEACHER, "--ckpt_path=theirs.pth"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "theirs.pth is no checkpoint of such a TeacherModule" in line
    assert not Path("checkpoints").exists()


def test_a_student_learns_from_it(theirs):
    student = ["--model=kd_lightning.modules.DistillModule", *NET, "--model.teacher=kd_lightning.models.MLP"]
    options = ["--model.teacher.widths=[64,10]", "--model.teacher_ckpt=theirs.pth", "--trainer.max_steps=1"]
    trained = lightning.main(["fit", *student, *options, *DATA])
    assert all(torch.equal(trained.model.teacher.network.state_dict()[name], theirs[name]) for name in theirs)
