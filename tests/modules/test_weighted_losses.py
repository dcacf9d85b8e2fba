"""Several losses at once, each with its weight, its layers and its line; schedules of weights and temperatures."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import Trainer
from torch import Tensor, nn

from kd_lightning.__main__ import main
from kd_lightning.batch import Batch
from kd_lightning.errors import UserError
from kd_lightning.losses import CosineHiddenLoss, logit_mse_loss, soft_target_loss
from kd_lightning.models import MLP
from kd_lightning.modules import DistillModule, FeatureMatch, WeightedLoss
from kd_lightning.schedules import CosineSchedule, LinearSchedule, ValueSchedule, WarmUp


class Bank(nn.Module):
    """Counts the images that it has seen at each position, as a memory would."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))
        self.scale = nn.Parameter(torch.ones(()))

    def prepare(self, data: Any) -> None:
        self.seen = torch.zeros(len(data.train_label))

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor) -> Tensor:
        if self.training:
            self.seen[index] += 1
        return self.scale * (student.mean() - teacher.mean()).square()


def both(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    assert len(student) == len(teacher) == 2
    return torch.stack([F.mse_loss(*pair) for pair in zip(student, teacher, strict=True)]).sum()


def by_label(student_logits: Tensor, teacher_logits: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(student_logits, label)


@pytest.fixture(autouse=True)
def _teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    torch.manual_seed(0)
    torch.save(MLP([36, 5, 3]).state_dict(), "teacher.pt")


def config(**options: Any) -> dict[str, Any]:
    network = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [36, 5, 3]}}
    model = {"net": network, "teacher": network, "teacher_ckpt": "teacher.pt", **options}
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs", "version": 0}}
    return {
        "model": {"class_path": "kd_lightning.DistillModule", "init_args": model},
        "data": {"class_path": "tests.data.made.MadeDataModule", "init_args": {"batch_size": 12}},
        "trainer": {"max_epochs": 3, "accelerator": "cpu", "logger": logger},
    }


def fit(*words: str, **options: Any) -> int:
    Path("config.yaml").write_text(yaml.safe_dump(config(**options)))
    return main(["fit", "--config=config.yaml", *words])


def lines() -> list[dict[str, str]]:
    """Return the epochs of the run's metrics."""
    text = Path("logs/lightning_logs/version_0/metrics.csv").read_text()
    return [row for row in csv.DictReader(text.splitlines()) if row.get("train/loss")]


def test_each_loss_has_its_weight_its_temperature_its_layers_and_its_line() -> None:
    here = "tests.modules.test_weighted_losses"
    losses = [
        {"loss": "kd_lightning.losses.soft_target_loss", "weight": 0.5, "temperature": 2.0, "name": "cold"},
        {"loss": "kd_lightning.losses.logit_mse_loss", "weight": 0.25},
        {"loss": {"class_path": "kd_lightning.NKDLoss", "init_args": {"gamma": 1.0}}},
        {"loss": "kd_lightning.CosineHiddenLoss", "student_layer": "relu1", "teacher_layer": "relu1", "weight": 2.0},
        {"loss": f"{here}.both", "student_layer": ["linear1", "relu1"], "teacher_layer": ["linear1", "relu1"]},
        {"loss": f"{here}.Bank", "student_layer": "", "teacher_layer": ""},
    ]
    assert fit(losses=losses) == 0
    row = {name.removeprefix("train/"): float(value) for name, value in lines()[0].items() if value}
    parts = {"cold": 0.5, "logit_mse_loss": 0.25, "nkd_loss": 1, "cosine_hidden_loss": 2, "both": 1, "bank": 1}
    total = sum(weight * row[name] for name, weight in parts.items())
    assert row["loss"] == pytest.approx(total + 0.1 * row["hard_loss"] + 0.9 * row["soft_loss"], rel=1e-5)
    saved = torch.load("logs/lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["state_dict"]["losses.bank.seen"].tolist() == [3.0] * 24
    assert len(saved["optimizer_states"][0]["state"]) == 5  # the student's four and the bank's scale
    # The run's own config says the same again, and a checkpoint of a memory loads into a fresh module.
    run = ["--config=logs/lightning_logs/version_0/config.yaml"]
    resumed = ["--ckpt_path=logs/lightning_logs/version_0/checkpoints/last.ckpt", "--trainer.max_epochs=4"]
    assert main(["fit", *run, *resumed]) == 0


def test_schedules_of_temperature_and_weights_hold_for_their_epochs_and_are_logged() -> None:
    schedules = {
        "temperature": {"class_path": "kd_lightning.LinearSchedule", "init_args": {"start": 8.0, "end": 2.0}},
        "soft_weight": {"class_path": "kd_lightning.WarmUp", "init_args": {"epochs": 2, "value": 0.5}},
        "hard_weight": {"class_path": "kd_lightning.CosineSchedule", "init_args": {"start": 1.0, "end": 0.0}},
    }
    assert fit(**schedules) == 0
    found = [[float(row[f"train/{name}"]) for row in lines()] for name in schedules]
    assert found == [[8.0, 5.0, 2.0], [0.25, 0.5, 0.5], pytest.approx([1.0, 0.5, 0.0])]
    for row, temperature, soft, hard in zip(lines(), *found, strict=True):
        total = soft * float(row["train/soft_loss"]) + hard * float(row["train/hard_loss"])
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-5), temperature
    assert main(["fit", "--config=logs/lightning_logs/version_0/config.yaml"]) == 0


def test_a_scheduled_temperature_is_that_of_the_loss() -> None:
    module = DistillModule(MLP([36, 3]), MLP([36, 3]), temperature=LinearSchedule(8.0, 2.0), soft_weight=1.0)
    module.trainer = Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False)
    batch = Batch(torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 2, 0]), torch.arange(4), torch.zeros(4).long())
    logits, losses, teacher_logits = module.shared_step(batch)  # no training: the last epoch's
    assert teacher_logits is not None
    torch.testing.assert_close(losses["soft_loss"], soft_target_loss(logits, teacher_logits, 2.0))


def test_standardised_logits_are_compared_by_every_loss_on_logits() -> None:
    module = DistillModule(
        MLP([36, 3]), MLP([36, 3]), standardise_logits=True, losses=[WeightedLoss(logit_mse_loss)], hard_weight=1.0
    )
    batch = Batch(torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 2, 0]), torch.arange(4), torch.zeros(4).long())
    logits, losses, teacher_logits = module.shared_step(batch)
    assert teacher_logits is not None
    ours, theirs = (
        (it - it.mean(dim=1, keepdim=True)) / it.std(dim=1, keepdim=True) for it in (logits, teacher_logits)
    )
    torch.testing.assert_close(losses["soft_loss"], soft_target_loss(ours, theirs, 4.0))
    torch.testing.assert_close(losses["logit_mse_loss"], F.mse_loss(ours, theirs))
    torch.testing.assert_close(losses["hard_loss"], F.cross_entropy(logits, batch.label))


def schedule(name: str, **options: Any) -> dict[str, Any]:
    return {"class_path": f"kd_lightning.{name}", "init_args": options}


LAYER = {"loss": "kd_lightning.CosineHiddenLoss", "student_layer": "relu1", "teacher_layer": "relu1"}
MSE = "kd_lightning.losses.logit_mse_loss"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"losses": [{**LAYER, "student_layer": "relu2"}]}, "losses: student_layer relu2 found, .* such as relu1"),
        ({"losses": [{**LAYER, "teacher_layer": "relv1"}]}, "losses: teacher_layer relv1 found, .* such as relu1"),
        ({"losses": [{**LAYER, "teacher_layer": None}]}, "losses: cosine_hidden_loss has no teacher_layer, a layer of"),
        ({"losses": [{**LAYER, "student_layer": []}]}, "losses: cosine_hidden_loss has no student_layer, a layer of"),
        (
            {"losses": [{**LAYER, "student_layer": "linear2"}]},
            r"losses: student_layer linear2 returns 2x3 and teacher_layer relu1 returns 2x5, which Cos",
        ),
        ({"losses": [{"loss": MSE, "name": "soft_loss"}]}, "losses: name soft_loss found, letters, digits and _"),
        ({"losses": [{"loss": MSE, "name": "a b"}]}, "losses: name a b found, letters, digits and _ expected"),
        (
            {"losses": [{"loss": MSE, "weight": -1.0}]},
            "losses.logit_mse_loss.weight: -1.0 found, a number",
        ),
        (
            {"losses": [{"loss": MSE, "temperature": 0.0}]},
            "losses.logit_mse_loss.temperature: 0.0 found, a",
        ),
        (
            {"temperature": schedule("LinearSchedule", start=1, end=0)},
            "temperature in epoch 2: 0.0 found",
        ),
        (
            {"soft_weight": schedule("LinearSchedule", start=1, end=-1)},
            "soft_weight in epoch 2: -1.0 found",
        ),
        ({"soft_weight": schedule("WarmUp", epochs=0)}, "soft_weight: epochs: 0 found, at least 1 expected"),
        ({"soft_weight": schedule("WarmUp", epochs=3, of=2)}, "of: 2 found, at least the 3 epochs of warm-up expected"),
    ],
)
def test_a_mistake_is_one_line(options: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(**options) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("kd-lightning: error: ")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(line)


def test_a_schedule_of_a_run_without_length_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--trainer.max_epochs=-1", "--trainer.max_steps=4"]
    assert fit(*words, temperature=schedule("LinearSchedule", start=8, end=1)) == 2
    assert "temperature: LinearSchedule: epochs expected, or trainer.max_epochs" in capsys.readouterr().err
    assert fit(*words, temperature=schedule("LinearSchedule", start=8, end=1, epochs=2)) == 0


def test_what_a_loss_needs_and_the_data_lacks_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    mix = '--data.mix={"class_path": "kd_lightning.MixUp", "init_args": {"hard_loss": "unmixed"}}'
    loss = "tests.modules.test_weighted_losses.by_label"
    assert fit(mix, soft_loss=loss) == 2
    assert "soft_loss: by_label needs the labels of mixed images; hard_loss: mixed expected" in capsys.readouterr().err
    bank = {"loss": "tests.modules.test_weighted_losses.Bank", "student_layer": "", "teacher_layer": ""}
    assert fit(mix, losses=[bank]) == 2
    assert "losses: Bank needs each image's position in the training set, which MixUp" in capsys.readouterr().err
    module = DistillModule(
        MLP([36, 3]), MLP([36, 3]), losses=[WeightedLoss(Bank(), student_layer="", teacher_layer="")]
    )
    images = torch.utils.data.TensorDataset(torch.randn(8, 1, 6, 6), torch.arange(8) % 3)
    loader = torch.utils.data.DataLoader(images, batch_size=4)
    with pytest.raises(UserError, match=r"losses: Bank needs .* which plain loaders do not have"):
        Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(module, loader)


def test_labels_of_unlabelled_images_are_not_asked_for() -> None:
    module = DistillModule(MLP([36, 3]), MLP([36, 3]), soft_loss=by_label)
    module.terms[0].prepare(SimpleNamespace(train_label=torch.tensor([0, 1, 2])))
    with pytest.raises(UserError, match="soft_loss: by_label needs labels, and some training images are unlabelled"):
        module.terms[0].prepare(SimpleNamespace(train_label=torch.tensor([0, -1, 2])))


def test_a_function_of_two_layers_is_a_feature_loss_too() -> None:
    match = FeatureMatch(["linear1", "relu1"], ["linear1", "relu1"], both)
    module = DistillModule(MLP([36, 5, 3]), MLP([36, 5, 3]), features=[match], feature_weight=1.0)
    batch = Batch(torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 2, 0]), torch.arange(4), torch.zeros(4).long())
    assert module.shared_step(batch).losses["feature_loss"] > 0
    assert not list(module.feature_losses.parameters())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (LinearSchedule(1.0, 3.0), [1.0, 1.5, 2.0, 2.5, 3.0]),
        (LinearSchedule(1.0, 3.0, epochs=3), [1.0, 2.0, 3.0, 3.0, 3.0]),
        (LinearSchedule(1.0, 3.0, epochs=1), [3.0] * 5),
        (CosineSchedule(0.0, 1.0), [0.0, 0.14644661, 0.5, 0.85355339, 1.0]),
        (WarmUp(4, 2.0), [0.5, 1.0, 1.5, 2.0, 2.0]),
        (WarmUp(20, of=25), [0.25, 0.5, 0.75, 1.0, 1.0]),
        (WarmUp(20, of=240), [1.0] * 5),
    ],
)
def test_a_schedule_has_these_values_in_five_epochs(value: ValueSchedule, expected: list[float]) -> None:
    assert [value.at(epoch, 5) for epoch in range(5)] == pytest.approx(expected)


def test_names_follow_the_losses() -> None:
    losses = [
        WeightedLoss(CosineHiddenLoss(), student_layer="relu1", teacher_layer="relu1"),
        WeightedLoss(logit_mse_loss),
    ]
    module = DistillModule(MLP([36, 5, 3]), MLP([36, 5, 3]), losses=[*losses, *losses])
    assert [term.name for term in module.terms[1:]] == [
        "cosine_hidden_loss",
        "logit_mse_loss",
        "cosine_hidden_loss_2",
        "logit_mse_loss_2",
    ]
