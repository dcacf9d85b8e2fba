"""An ensemble of trained networks as a teacher."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.errors import UserError
from kd_lightning.models import MLP
from kd_lightning.modules import DistillModule
from kd_lightning.teachers import EnsembleTeacher
from kd_lightning.teachers.ensemble import parts_of


class Says(nn.Module):
    """Answers every image with the same logits."""

    def __init__(self, *logits, dtype=torch.float32):
        super().__init__()
        self.logits = torch.tensor([logits], dtype=dtype)

    def forward(self, image):
        return self.logits.expand(len(image), -1)


def test_it_answers_with_the_mean_of_the_logits():
    answer = EnsembleTeacher([Says(0.0, 2.0), Says(4.0, 0.0)])(torch.zeros(3, 1, 2, 2))
    assert torch.equal(answer, torch.tensor([[2.0, 1.0]] * 3))


@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
def test_softened_it_is_the_geometric_mean_of_the_members(temperature):
    members = [(0.0, 2.0, -1.0), (4.0, 0.0, 0.5), (1.0, 1.0, 1.0)]
    answer = EnsembleTeacher([Says(*logits) for logits in members])(torch.zeros(1, 1, 2, 2))
    softened = (torch.tensor(members) / temperature).softmax(dim=1)
    geometric = softened.log().mean(dim=0).exp()
    torch.testing.assert_close((answer[0] / temperature).softmax(dim=0), geometric / geometric.sum())


def test_members_in_half_precision_are_added_up_in_single():
    members = [Says(1.0, 0.0, dtype=torch.bfloat16)] * 2 + [Says(1.0078125, 0.0, dtype=torch.bfloat16)]
    answer = EnsembleTeacher(members)(torch.zeros(1, 1, 2, 2))
    assert answer.dtype == torch.float32
    assert answer[0, 0].item() == pytest.approx(1 + 0.0078125 / 3, abs=1e-6)


def test_weights_make_a_weighted_mean():
    answer = EnsembleTeacher([Says(0.0, 2.0), Says(4.0, 0.0)], weights=[1.0, 3.0])(torch.zeros(1, 1, 2, 2))
    assert torch.equal(answer, torch.tensor([[3.0, 0.5]]))


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 5.0]])
def test_the_mean_of_probabilities_is_that_at_the_temperature(weights):
    members = [(0.0, 2.0, -1.0), (4.0, 0.0, 0.5), (1.0, 1.0, -torch.inf)]
    ensemble = EnsembleTeacher([Says(*logits) for logits in members], weights, mean="probabilities", temperature=3.0)
    softened = (torch.tensor(members) / 3).softmax(dim=1)
    share = torch.tensor(weights or [1.0] * 3)[:, None] / sum(weights or [1.0] * 3)
    answer = ensemble(torch.zeros(1, 1, 2, 2))[0]
    torch.testing.assert_close((answer / 3).softmax(dim=0), (share * softened).sum(dim=0))
    assert repr(ensemble) != repr(EnsembleTeacher([Says(*logits) for logits in members]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1.0]}, r"weights: 1 found, 2 expected \(the members\)"),
        ({"weights": [1.0, -1.0]}, r"weights: \[1.0, -1.0\] found, numbers of at least 0 expected"),
        ({"weights": [0.0, 0.0]}, r"weights: \[0.0, 0.0\] found, numbers of at least 0 expected, one above 0"),
        ({"mean": "median"}, "mean: median found, logits or probabilities expected"),
        ({"mean": "probabilities"}, "temperature: none found in an ensemble, the student's temperature expected"),
        ({"temperature": 2.0}, "temperature: 2.0 found in an ensemble, none with the mean of logits expected"),
        ({"mean": "probabilities", "temperature": 0.0}, "temperature: 0.0 found, a number above 0 expected"),
    ],
)
def test_a_wrong_mean_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        EnsembleTeacher([Says(0.0), Says(1.0)], **options)


def test_probabilities_are_averaged_at_the_students_temperature():
    ensemble = EnsembleTeacher([Says(0.0, 1.0)], mean="probabilities", temperature=2.0)
    DistillModule(MLP([4, 2]), ensemble, temperature=2.0)
    with pytest.raises(UserError, match=r"temperature: 4.0 found for soft_loss, 2.0 expected, at which the ensemble"):
        DistillModule(MLP([4, 2]), ensemble, temperature=4.0)


def test_paths_and_networks_are_counted():
    with pytest.raises(UserError, match="members: none found"):
        EnsembleTeacher([])
    ensemble = EnsembleTeacher([Says(0.0), Says(1.0)])
    assert [path for _, path in parts_of(ensemble, ["a", "b"])] == ["a", "b"]
    with pytest.raises(UserError, match=r"teacher_ckpt: 1 paths found, 2 expected \(the ensemble's members\)"):
        parts_of(ensemble, "a")
    with pytest.raises(UserError, match=r"teacher_ckpt: 2 paths found, 1 expected \(Says\)"):
        parts_of(Says(0.0), ["a", "b"])


def network(hidden):
    return {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, hidden, 10]}}


@pytest.fixture
def _config(tmp_path, monkeypatch):
    """Two members of different shape, and `student.yaml`, which names them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    for hidden in (12, 16):
        torch.manual_seed(hidden)
        torch.save(MLP([64, hidden, 10]).state_dict(), f"member_{hidden}.pt")
    ensemble = {"class_path": "kd_lightning.EnsembleTeacher", "init_args": {"members": [network(12), network(16)]}}
    logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "logs", "name": "student", "version": "seed_0"},
    }
    options = {"net": network(8), "teacher": ensemble, "teacher_ckpt": ["member_12.pt", "member_16.pt"]}
    config = {
        "seed_everything": 0,
        "model": {"class_path": "kd_lightning.modules.DistillModule", "init_args": options},
        "data": {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": {"train_size": 100}},
        "trainer": {"max_epochs": 2, "logger": logger, "enable_model_summary": False},
    }
    Path("student.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.usefixtures("_config")
def test_a_student_learns_from_it_and_is_tested_without_it(recwarn):
    assert main(["fit", "--config=student.yaml"]) == 0
    kept = torch.load("logs/student/seed_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(name.startswith("net.") for name in kept)
    assert len(list(Path().glob("member_12.pt.logits-*"))) == 1
    assert main(["test", "--config=student.yaml"]) == 0
    results = Path("logs/student/seed_0/results.json")
    assert "agreement" in json.loads(results.read_text())["test"]
    Path("member_16.pt").unlink()
    assert main(["test", "--config=student.yaml"]) == 0
    assert "agreement" not in json.loads(results.read_text())["test"]
    assert any("no member_16.pt; agreement" in str(warning.message) for warning in recwarn)


@pytest.mark.usefixtures("_config")
def test_answers_of_other_members_are_not_taken_for_its_own():
    assert main(["fit", "--config=student.yaml"]) == 0
    (first,) = Path().glob("member_12.pt.logits-*")
    torch.manual_seed(0)
    torch.save(MLP([64, 16, 10]).state_dict(), "member_16.pt")
    assert main(["fit", "--config=student.yaml"]) == 0
    assert len({*Path().glob("member_12.pt.logits-*")} - {first}) == 1


@pytest.mark.usefixtures("_config")
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.teacher_ckpt=member_12.pt", "teacher_ckpt: 1 paths found, 2 expected (the ensemble's members)"),
        ("--model.teacher_ckpt=[member_12.pt,absent.pt]", "teacher_ckpt: no file or run folder absent.pt"),
        ("--model.teacher_ckpt=[member_16.pt,member_12.pt]", "do not fit MLP: linear1.weight is 16x64 in the file"),
        ("--model.teacher.init_args.members=[]", "members: none found, at least one network expected"),
    ],
)
def test_an_ensemble_that_will_not_do_is_named_in_one_line(option, message, capsys):
    assert main(["fit", "--config=student.yaml", option]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd-lightning:")]
    assert message in line
    assert not Path("logs/student/seed_0/checkpoints").exists()


@pytest.mark.usefixtures("_config")
def test_members_get_the_data_s_classes_and_no_published_weights():
    config = yaml.safe_load(Path("student.yaml").read_text())
    member = {"class_path": "torchvision.models.resnet18", "init_args": {"weights": "DEFAULT"}}
    config["model"]["init_args"]["teacher"]["init_args"]["members"] = [member, network(16)]
    Path("student.yaml").write_text(yaml.safe_dump(config))
    first, second = lightning.build(["fit", "--config=student.yaml"]).model.teacher.network.members
    assert first.fc.out_features == 10
    assert second.linear2.out_features == 10


@pytest.mark.usefixtures("_config")
def test_a_sweep_asks_it_too():
    words = ["--temperatures=1,4", "--soft_weights=0.5", "--data.val_size=50", "--trainer.max_epochs=1"]
    assert main(["sweep", "student.yaml", *words]) == 0
    assert len(list(Path("lightning_logs/sweep").rglob("sweep.csv"))) == 1
