"""`kd-lightning sweep`, by the words a user types."""

import csv
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.commands import sweep
from kd_lightning.models import MLP
from kd_lightning.modules import ClassifierModule
from kd_lightning.reports.sweep import Result, Student, best_cell, draw_grid
from tests.utils.test_stopping import stopped_within

FOLDER = Path("lightning_logs/sweep/recipe_student")
GRID = ["--temperatures=1,4", "--soft_weights=0.1,0.9", "--seeds=2"]


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    torch.manual_seed(1)
    torch.save(MLP([64, 16, 10]).state_dict(), "teacher.pt")
    write_config()


def write_config(module: str = "DistillModule", dropout: float = 0.0, **init_args: Any) -> None:
    net = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 8, 10], "hidden_dropout": dropout}}
    if module == "DistillModule":
        teacher = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 16, 10]}}
        init_args = {"teacher": teacher, "teacher_ckpt": "teacher.pt", **init_args}
    config = {
        "seed_everything": 3,
        "model": {"class_path": f"kd_lightning.modules.{module}", "init_args": {"net": net, **init_args}},
        "data": {
            "class_path": "kd_lightning.data.DigitsDataModule",
            "init_args": {"train_size": 100, "val_size": 200},
        },
        "trainer": {"max_epochs": 2},
    }
    Path("recipe").mkdir(exist_ok=True)
    Path("recipe/student.yaml").write_text(yaml.safe_dump(config))


def rows() -> list[dict[str, str]]:
    with (FOLDER / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_without_a_logger_there_are_no_events(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "recipe/student.yaml", "--temperatures=1", "--soft_weights=0.5"]
    assert main([*words, "--trainer.logger=false"]) == 0
    assert len(rows()) == 1
    assert not list(FOLDER.rglob("events*"))
    assert "(sweep.csv, accuracy.png, best.yaml)" in capsys.readouterr().out


def test_an_incomplete_last_stack_works_and_no_file_of_the_user_is_overwritten() -> None:
    for name in ("config.yaml", "results.json"):
        Path(name).write_text("mine")
    assert main(["sweep", "recipe/student.yaml", *GRID, "--at_once=7"]) == 0
    assert len(rows()) == 8
    assert [Path(name).read_text() for name in ("config.yaml", "results.json")] == ["mine", "mine"]


def test_a_grid_is_trained_in_stacks_and_its_best_student_is_written_as_a_config(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["sweep", "recipe/student.yaml", *GRID, "--at_once=3"]) == 0
    said = capsys.readouterr().out
    assert "students 7 to 8 of 8" in said
    assert "after another" not in said
    places = [(row["temperature"], row["soft_weight"], row["seed"]) for row in rows()]
    assert places == [(t, w, s) for t in ("1.0", "4.0") for w in ("0.1", "0.9") for s in ("0", "1")]
    with Image.open(FOLDER / "accuracy.png") as image:
        assert min(image.size) > 200
    assert EventAccumulator(str(FOLDER)).Reload().Tags()["images"] == ["sweep/accuracy"]
    events = EventAccumulator(str(FOLDER / "T4_w0.9_seed1")).Reload()
    assert events.Scalars("val/accuracy")[0].value == pytest.approx(float(rows()[-1]["val_accuracy"]), abs=1e-6)
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= events.summary_metadata.keys()
    # Alone, the best does what it did among the others.
    assert f"kd-lightning fit --config {FOLDER}/best.yaml" in said
    best = yaml.safe_load((FOLDER / "best.yaml").read_text())["model"]["init_args"]
    alone = lightning.main(["fit", "--config", str(FOLDER / "best.yaml")])
    (row,) = [
        row
        for row in rows()
        if (float(row["temperature"]), float(row["soft_weight"])) == (best["temperature"], best["soft_weight"])
        and row["seed"] == "0"
    ]
    assert float(row["val_accuracy"]) == pytest.approx(alone.trainer.callback_metrics["val/accuracy"].item(), abs=1e-6)
    assert Path("lightning_logs/sweep/recipe_student_best/seed_0/checkpoints/best.ckpt").is_file()


@pytest.mark.parametrize(
    ("options", "words", "reason"),
    [
        ({"dropout": 0.2}, [], "MLP drops units at random (Dropout)"),
        ({"soft_loss": "torch.nn.functional.gaussian_nll_loss"}, [], "the soft loss is torch.nn."),
        (
            {"optimizer": {"class_path": "torch.optim.Adafactor"}},
            [],
            "Adafactor does not update each weight independently",
        ),
        ({}, ["--trainer.gradient_clip_val=1"], "gradients are clipped by their norm"),
        ({"losses": [{"loss": "kd_lightning.losses.logit_mse_loss"}]}, [], "there are further losses"),
        ({"standardise_logits": True}, [], "logits are standardised"),
        (
            {"hard_weight": {"class_path": "kd_lightning.WarmUp", "init_args": {"epochs": 2}}},
            [],
            "hard_weight is a schedule",
        ),
        (
            {
                "lr_scheduler": {
                    "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
                    "init_args": {"monitor": "val/nll"},
                }
            },
            [],
            "ReduceLROnPlateau monitors a single student",
        ),
    ],
    ids=["dropout", "soft loss", "optimizer", "clipping", "losses", "standardised", "schedule", "plateau"],
)
def test_students_that_cannot_be_stacked_are_trained_one_after_another(
    options: dict[str, Any], words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(**options)
    assert main(["sweep", "recipe/student.yaml", "--temperatures=2", "--soft_weights=0.5", *words]) == 0
    assert f"one student after another: {reason}" in capsys.readouterr().out
    assert [row["temperature"] for row in rows()] == ["2.0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe/student.yaml"], "sweep: --temperatures and --soft_weights expected, or --space FILE"),
        (["--seeds=2"], "sweep: --seeds=2 found, the config of a distilled student expected first"),
        (["recipe/student.yaml", *GRID, "--data.val_size=0"], "val_size: 0 found, at least 1 expected: students are"),
        (["recipe/student.yaml", *GRID, "--seed_everything=1"], "sweep: --seed_everything=1 found, but sweep sets it"),
        (["recipe/student.yaml", "--temperatures=a", "--soft_weights=1"], "a found, numbers expected, as in 1,2,4"),
        (["recipe/student.yaml", "--temperatures=1,nan", "--soft_weights=1"], "1,nan found, numbers expected"),
        (["recipe/student.yaml", "--temperatures=1,1", "--soft_weights=1"], "1,1 found, each number once expected"),
        (["recipe/student.yaml", *GRID[:2], "--seeds=0"], "0 found, a number of at least 1 expected"),
        (["recipe/student.yaml", "--temperatures=0", "--soft_weights=1"], "temperature: 0.0 found"),
        (["recipe/student.yaml", *GRID, "--model.nonsense=1"], "nonsense"),
        (["recipe/none.yaml", *GRID], "none.yaml"),
        (
            [
                "recipe/student.yaml",
                *GRID,
                "--trainer.accelerator=cpu",
                "--trainer.devices=2",
                "--trainer.strategy=ddp",
            ],
            "sweep: several devices found, one expected",
        ),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *words]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd-lightning:")]
    assert message in said
    assert not Path("lightning_logs").exists()


def test_a_config_without_a_teacher_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write_config("TeacherModule")
    assert main(["sweep", "recipe/student.yaml", *GRID]) == 2
    assert "a kd_lightning.modules.TeacherModule found in the config" in capsys.readouterr().err


def test_the_best_cell_has_the_highest_mean_accuracy_then_the_lowest_likelihood() -> None:
    def result(temperature: float, weight: float, seed: int, accuracy: float, nll: float) -> Result:
        return Result(Student(temperature, weight, seed), accuracy, nll)

    results = [result(1, 0.1, 0, 0.9, 1.0), result(1, 0.1, 1, 0.5, 1.0), result(2, 0.1, 0, 0.8, 2.0)]
    assert best_cell(results) == (2, 0.1)
    assert best_cell([*results, result(4, 0.1, 0, 0.8, 1.0)]) == (4, 0.1)
    (axes,) = draw_grid(results).axes
    assert [text.get_text() for text in axes.texts] == ["70.00", "80.00"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]


@pytest.mark.parametrize(
    ("owner", "name"), [(lightning, "build"), (ClassifierModule, "training_step"), (sweep, "draw_grid")]
)
def test_the_same_command_completes_a_sweep_that_sigterm_stopped(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "recipe/student.yaml", *GRID]
    with monkeypatch.context() as patched:
        assert stopped_within(patched, owner, name, command, signal.SIGTERM) == 143
    last = capfd.readouterr().err.splitlines()[-1]
    assert last == f"kd-lightning: stopped by SIGTERM; to go on: kd-lightning {' '.join(command)}"
    assert main(command) == 0
    assert len(rows()) == 8
