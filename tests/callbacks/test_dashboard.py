"""What is written for TensorBoard, read back from the files that it reads."""

import csv
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata
from torch import Tensor, nn

from kd_lightning.__main__ import main
from kd_lightning.callbacks import Dashboard
from kd_lightning.modules import TeacherModule
from tests.data.made import MadeDataModule

CHOSEN = {
    "network",
    "parameters",
    "teacher",
    "temperature",
    "hard_weight",
    "soft_weight",
    "feature_weight",
    "optimizer",
    "lr",
    "max_epochs",
    "batch_size",
    "images",
    "views",
    "precision",
    "seed",
}
NET = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 16, 10]}}


class Bias(nn.Module):
    """Says the same of every image."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([3.0, 4.0, 0.0]))

    def forward(self, image: Tensor) -> Tensor:
        return self.bias.expand(len(image), 3)


# Softmax of 3, 4 and 0 is 0.2654, 0.7214 and 0.0132. Of 24 images the first batch has 20, of which 11, 6 and 3 are of
# the classes 0, 1 and 2; the second has 1, 2 and 1. A gradient is the softmax less the classes' parts of its batch.
@pytest.mark.parametrize(
    ("steps_at_once", "options", "steps", "norm"),
    [
        (1, {"max_epochs": 1}, 2, 0.324534),
        (2, {"max_epochs": 1}, 2, 0.324534),
        (1, {"max_steps": 1}, 1, 0.526585),
        (1, {"limit_train_batches": 1, "max_epochs": 2}, 2, 0.526585),
    ],
    ids=["a step a call", "two steps a call", "stopped within an epoch", "a part of an epoch"],
)
def test_norms_are_those_of_all_that_is_trained_and_of_the_last_step_s_gradients(
    steps_at_once: int, options: dict[str, Any], steps: int, norm: float
) -> None:
    data = MadeDataModule(batch_size=20, shuffle=False)
    module = TeacherModule(Bias(), lambda parameters: torch.optim.SGD(parameters, lr=0.0), steps_at_once=steps_at_once)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", callbacks=[Dashboard()], **quiet, **options)
    trainer.fit(module, data)
    assert trainer.global_step == steps
    assert trainer.callback_metrics["norm/parameters"].item() == pytest.approx(5.0, abs=1e-6)
    assert trainer.callback_metrics["norm/gradients"].item() == pytest.approx(norm, abs=1e-5)


def write_config(name: str, module: str, **init_args: Any) -> str:
    options = {"save_dir": "logs", "name": name, "version": "seed_0"}
    config = {
        "seed_everything": 5,
        "model": {"class_path": f"kd_lightning.modules.{module}", "init_args": {"net": NET, **init_args}},
        "data": {
            "class_path": "kd_lightning.data.DigitsDataModule",
            "init_args": {"train_size": 100, "val_size": 50, "batch_size": 25},
        },
        "trainer": {
            "max_epochs": 3,
            "enable_model_summary": False,
            "logger": {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": options},
        },
    }
    Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    return f"{name}.yaml"


def read(name: str) -> EventAccumulator:
    return EventAccumulator(f"logs/{name}/seed_0").Reload()


def hyperparameters(events: EventAccumulator) -> dict[str, str | float]:
    """What the HParams tab shows of a run."""
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    values = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: value.string_value or value.number_value for name, value in values.items()}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, EventAccumulator]:
    """A teacher and a student that matches a layer of it, trained and tested."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    schedule = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.5}}
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    write_config("teacher", "TeacherModule", optimizer=optimizer, lr_scheduler=schedule, steps_at_once=2)
    loss = {"class_path": "kd_lightning.losses.CosineHiddenLoss"}
    write_config(
        "distill",
        "DistillModule",
        features=[{"student_layer": "relu1", "teacher_layer": "relu1", "loss": loss}],
        teacher=NET,
        teacher_ckpt="logs/teacher/seed_0",
        temperature=2.5,
        feature_weight=0.5,
        lr_scheduler=schedule,
    )
    for name in ("teacher", "distill"):
        assert main(["fit", "--config", f"{name}.yaml"]) == 0
        assert main(["test", "--config", f"{name}.yaml"]) == 0
    return {name: read(name) for name in ("teacher", "distill")}


def test_runs_are_comparable(runs: dict[str, EventAccumulator]) -> None:
    teacher, student = (hyperparameters(events) for events in runs.values())
    assert set(teacher) == set(student) == CHOSEN
    assert teacher == {
        "network": "MLP",
        "parameters": 64 * 16 + 16 + 16 * 10 + 10,
        "teacher": "none",
        "temperature": 1.0,
        "hard_weight": 1.0,
        "soft_weight": 0.0,
        "feature_weight": 0.0,
        "optimizer": "SGD",
        "lr": pytest.approx(0.1),
        "max_epochs": 3,
        "batch_size": 25,
        "images": 100,
        "views": 1,
        "precision": "32-true",
        "seed": 5,
    }
    loss = {"temperature": 2.5, "hard_weight": 0.1, "soft_weight": 0.9, "feature_weight": 0.5, "optimizer": "Adam"}
    assert student == {**teacher, **loss, "lr": 0.001, "teacher": "logs/teacher/seed_0"}

    for events in runs.values():
        content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
        experiment = metadata.parse_experiment_plugin_data(content)
        assert {info.name for info in experiment.hparam_infos} == CHOSEN
        first = {"network", "teacher", "temperature", "soft_weight", "seed"}
        assert {info.name for info in experiment.hparam_infos if info.differs} == first
        figures = {info.name.tag for info in experiment.metric_infos}
        assert {"test/accuracy", "test/errors", "test/agreement", "test/teacher_kl"} <= figures
        found = figures & set(events.Tags()["scalars"])
        # No figure is made up before it is known: the last that is logged is the one that the test found.
        assert all(len(events.Scalars(tag)) == (1 if tag.startswith("test/") else 3) for tag in found)
    assert found == figures

    # Every chart has something to show, and shows it of all runs.
    layouts = [events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0] for events in runs.values()]
    assert layouts[0] == layouts[1]
    layout = layout_pb2.Layout.FromString(layouts[0])
    asked = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    scalars = {tag for events in runs.values() for tag in events.Tags()["scalars"]}
    assert [tag for tag in asked if not any(re.match(tag, scalar) for scalar in scalars)] == []

    # metrics.csv has the same curves, a row an epoch.
    for name, events in runs.items():
        with Path(f"logs/{name}/seed_0/metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["epoch"] for row in rows] == ["0", "1", "2"]
        tags = {tag for tag in events.Tags()["scalars"] if tag.startswith(("train/", "val/", "norm/"))}
        assert {"epoch", "step", *tags} == set(rows[0])
        for tag in tags:
            found = torch.tensor([float(row[tag]) for row in rows])
            assert found.tolist() == [event.value for event in events.Scalars(tag)]  # to the bit
    assert [int(row["step"]) for row in rows] == [event.step for event in runs["distill"].Scalars("train/loss")]

    rates = [event.value for event in runs["teacher"].Scalars("train/learning_rate")]
    assert rates == pytest.approx([0.1, 0.05, 0.025])
    assert [event.value for event in runs["distill"].Scalars("train/learning_rate")] == pytest.approx(
        [0.001, 0.0005, 0.00025]
    )
    assert [event.step for event in runs["distill"].Scalars("norm/gradients")] == [3, 7, 11]
    saved = torch.load("logs/distill/seed_0/checkpoints/last.ckpt", weights_only=True)
    weights = torch.cat([tensor.flatten() for tensor in saved["state_dict"].values()])
    assert runs["distill"].Scalars("norm/parameters")[-1].value == pytest.approx(weights.norm().item(), rel=1e-5)
    assert sum(file.stat().st_size for file in Path("logs").rglob("events*")) < 2**20


def test_a_run_without_a_seed_is_shown_with_minus_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    logger = TensorBoardLogger("logs", "made", "seed_0")
    trainer = Trainer(accelerator="cpu", callbacks=[Dashboard()], logger=logger, max_steps=1, **quiet)
    trainer.fit(TeacherModule(Bias()), MadeDataModule())
    assert hyperparameters(read("made"))["seed"] == -1
