"""The losses on layers, by the words a user types."""

import csv
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kd_lightning.__main__ import main
from kd_lightning.models import CifarResNet
from tests.test_shown_code import block

RUN = Path("logs/run")
LAST = RUN / "checkpoints" / "last.ckpt"
STUDENT, TEACHER = [2, 2, 3, 4], [3, 4, 5, 6]
MAPS = ["layer1", "layer2", "layer3"]


def loss(name: str, layers: Any, weight: float = 1.0, **init_args: Any) -> dict[str, Any]:
    given = {"class_path": f"kd_lightning.{name}", "init_args": init_args}
    return {"loss": given, "weight": weight, "student_layer": layers, "teacher_layer": layers}


LOSSES = {
    "attention_transfer_loss": loss("AttentionTransferLoss", MAPS),
    "similarity_preserving_loss": loss("SimilarityPreservingLoss", "layer3"),
    "rkd_distance_loss": loss("RKDDistanceLoss", "flatten"),
    "rkd_angle_loss": loss("RKDAngleLoss", "flatten"),
    "pkt_loss": loss("PKTLoss", "flatten"),
    "crd_loss": loss("CRDLoss", "flatten", 0.1, student_width=4, teacher_width=6, width=5, negatives=7),
    "review_kd_loss": loss(
        "ReviewKDLoss", [*MAPS, "flatten"], student_channels=[2, 3, 4, 4], teacher_channels=[4, 5, 6, 6]
    ),
}
TRAINED = {"crd_loss": 4, "review_kd_loss": 4 * 6 + 3 * 2}
"""Parameters of the losses that have any: weights and biases of two projections; of four fusions' norms and
convolutions, and of three attentions."""


@pytest.fixture(autouse=True)
def _teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    torch.manual_seed(0)
    torch.save(CifarResNet(8, TEACHER, num_classes=3, in_channels=1).state_dict(), "teacher.pt")


def network(channels: list[int]) -> dict[str, Any]:
    options = {"depth": 8, "channels": channels, "in_channels": 1}
    return {"class_path": "kd_lightning.CifarResNet", "init_args": options}


def write_config(student: list[int] = STUDENT, teacher: list[int] = TEACHER, **options: Any) -> None:
    networks = {"net": network(student), "teacher": network(teacher), "teacher_ckpt": "teacher.pt"}
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger"}
    logger["init_args"] = {"save_dir": "logs", "name": "", "version": "run"}
    config = {
        "model": {"class_path": "kd_lightning.DistillModule", "init_args": {**networks, **options}},
        "data": {"class_path": "tests.data.made.MadeDataModule", "init_args": {"batch_size": 8, "val_size": 6}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": logger, "enable_model_summary": False},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))


def fit(*words: str, **options: Any) -> int:
    write_config(**options)
    return main(["fit", "--config=config.yaml", *words])


def state(file: Path = LAST) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(file, weights_only=True)
    return saved


def check_lines(names: Collection[str], weights: dict[str, float]) -> None:
    """Check that the epoch's loss is the weighted sum of its parts, each above 0."""
    (row,) = (row for row in csv.DictReader((RUN / "metrics.csv").open()) if row.get("train/loss"))
    parts = {"hard_loss": 0.1, "soft_loss": 0.9, **weights}
    values = {name: float(row[f"train/{name}"]) for name in [*parts, "loss"]}
    assert values["loss"] == pytest.approx(sum(weight * values[name] for name, weight in parts.items()), rel=1e-5)
    assert all(values[name] > 0 for name in names)


def test_each_loss_trains_a_student_and_has_its_line() -> None:
    assert fit(losses=[*LOSSES.values()]) == 0
    check_lines(LOSSES, {name: each["weight"] for name, each in LOSSES.items()})
    student = len(list(CifarResNet(8).parameters()))
    assert len(state()["optimizer_states"][0]["state"]) == student + sum(TRAINED.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_a_student_is_resumed_exactly_tested_and_exported_without_the_loss(name: str) -> None:
    assert fit("--trainer.max_epochs=2", losses=[LOSSES[name]]) == 0
    expected = state()["state_dict"]
    assert fit(losses=[LOSSES[name]]) == 0
    check_lines([name], {name: LOSSES[name]["weight"]})
    words = ["fit", f"--config={RUN / 'config.yaml'}", f"--ckpt_path={LAST}", "--trainer.max_epochs=2"]
    assert main(words) == 0
    found = state()["state_dict"]
    assert len([each for each in found if each.startswith("losses.")]) >= TRAINED.get(name, 0)
    assert all(torch.equal(tensor, found[each]) for each, tensor in expected.items())
    assert main(["test", "--config=config.yaml"]) == 0  # with the teacher, in a module that no data has prepared
    Path("teacher.pt").unlink()
    assert main(["test", "--config=config.yaml"]) == 0
    assert main(["export", str(RUN), "--format=torch"]) == 0
    exported = torch.export.load(RUN / "export" / "model.pt2").state_dict
    normalisation = {"scale", "shift"}
    assert {each.rpartition("network.")[2] for each in exported} == {*CifarResNet(8).state_dict()} | normalisation


def test_losses_on_layers_are_given_as_shown() -> None:
    shown = "# layers.yaml: kd-lightning fit --config mine.yaml --config layers.yaml"
    Path("layers.yaml").write_text(block("docs/losses.md", shown))
    channels = [16, 16, 32, 64]
    torch.save(CifarResNet(8, channels, num_classes=3, in_channels=1).state_dict(), "teacher.pt")
    write_config(channels, channels)
    Path("config.yaml").rename("mine.yaml")
    assert main(shown.partition("kd-lightning ")[2].split()) == 0
    weights = {"attention_transfer_loss": 1000, "rkd_angle_loss": 50, "crd_loss": 0.8, "review_kd_loss": 0.6 / 20}
    check_lines(weights, weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"losses": [loss("ReviewKDLoss", MAPS, student_channels=[2, 3, 5], teacher_channels=[4, 5, 6])]},
            "losses: student_layer layer1, layer2, layer3 returns 2x2x6x6, 2x3x3x3, 2x4x2x2 and teacher_layer",
        ),
        ({"losses": [loss("CRDLoss", "flatten", student_width=4, teacher_width=4)]}, "widths of 4 and 4, expected"),
        (
            {"losses": [{**loss("PKTLoss", MAPS), "teacher_layer": "flatten"}]},
            "which PKTLoss does not take (student features [(2, 2, 6, 6), (2, 3, 3, 3), (2, 4, 2, 2)] and teacher",
        ),
        (
            {"losses": [loss("CRDLoss", "flatten", student_width=4, teacher_width=6, negatives=0)]},
            "negatives: 0 found, at least 1 expected",
        ),
    ],
)
def test_a_mistake_is_one_line(options: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(**options) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("kd-lightning: error: ")
    assert message in line


@pytest.mark.slow
def test_two_processes_remember_the_images_of_both() -> None:
    write_config(losses=[LOSSES["crd_loss"]])
    program = Path("program.py")
    program.write_text("import sys\nfrom kd_lightning.__main__ import main\nsys.exit(main(sys.argv[1:]))\n")
    words = ["fit", "--config=config.yaml", "--data.batch_size=3", "--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run(
        [sys.executable, str(program), *words], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    saved = state()["state_dict"]
    length = saved["losses.crd_loss.student_memory"].norm(dim=1)  # 1 for images that were in a batch
    assert torch.equal((length - 1).abs() < 1e-5, saved["losses.crd_loss.row_label"] >= 0)
