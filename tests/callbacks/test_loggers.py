"""Each logger has the options, figures and pictures of a run, and one run of its own for it."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning, run_config
from kd_lightning.models import MLP
from kd_lightning.reports.results import read_results, update_results
from tests.services import LoggedRun, mlflow_runs, wandb_runs

PICTURES = ("confusion", "errors", "mistakes", "reliability")
RUN = Path("logs/digits/seed_0")


def logger(kind: str, **options: Any) -> dict[str, Any]:
    return {"class_path": f"lightning.pytorch.loggers.{kind}", "init_args": options}


TENSORBOARD = logger("TensorBoardLogger", save_dir="logs", name="digits", version="seed_0")
CSV = logger("CSVLogger", save_dir=".")


@pytest.fixture
def database(tmp_path: Path) -> str:
    pytest.importorskip("mlflow")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()  # its process stays in the folder where it was started


def write_config(loggers: Any) -> str:
    net = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 10]}}
    data = {"train_size": 64, "val_size": 32, "batch_size": 32}
    config = {
        "seed_everything": 7,
        "model": {"class_path": "kd_lightning.modules.TeacherModule", "init_args": {"net": net}},
        "data": {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": data},
        "trainer": {"max_epochs": 2, "enable_model_summary": False, "logger": loggers},
    }
    Path("given.yaml").write_text(yaml.safe_dump(config))
    return "--config=given.yaml"


def check(run: LoggedRun, results: dict[str, Any], pictures: set[str], epochs: int = 2) -> None:
    assert run.options["network"] == "MLP"
    assert {name: float(run.options[name]) for name in ("seed", "lr", "parameters")} == pytest.approx(
        {"seed": 7, "lr": 0.001, "parameters": 650}
    )
    for name in ("train/loss", "train/learning_rate", "val/accuracy", "val/macro_f1", "norm/parameters"):
        assert len(run.figures[name]) == epochs
    for name in ("accuracy", "errors", "macro_f1", "balanced_accuracy", "nll"):
        assert run.figures[f"test/{name}"] == [pytest.approx(results["test"][name], abs=1e-6)]
    assert run.pictures == pictures


@pytest.mark.slow
def test_a_training_and_its_tests_are_one_run_of_each_logger(database: str) -> None:
    pytest.importorskip("wandb")
    services = [
        logger("WandbLogger", save_dir="cloud", project="mine", offline=True),
        logger("MLFlowLogger", tracking_uri=database, experiment_name="mine", run_name="first"),
    ]
    assert main(["fit", write_config([*services, CSV, TENSORBOARD])]) == 0
    assert main(["test", f"--config={RUN / 'config.yaml'}", "--verbose=false"]) == 0
    results = read_results(RUN)

    ((of_wandb,), (of_mlflow,)) = wandb_runs(Path("cloud")).values(), mlflow_runs(database).values()
    check(of_wandb, results, {f"test/{name}" for name in PICTURES})
    check(of_mlflow, results, {f"{name}.png" for name in PICTURES})
    assert (of_wandb.project, of_mlflow.project, of_mlflow.name) == ("mine", "mine", "first")
    assert results["loggers"] == {"WandbLogger": of_wandb.id, "MLFlowLogger": of_mlflow.id}

    events = EventAccumulator(str(RUN)).Reload()
    assert set(events.Tags()["images"]) == {f"test/{name}" for name in PICTURES}
    assert events.Scalars("test/accuracy")[0].value == pytest.approx(results["test"]["accuracy"], abs=1e-6)
    tables = [list(csv.DictReader(file.open())) for file in sorted(Path("lightning_logs").rglob("metrics.csv"))]
    assert [sum(bool(row["train/loss"]) for row in table) for table in tables[:1]] == [2]
    assert yaml.safe_load(Path("lightning_logs/version_0/hparams.yaml").read_text())["seed"] == 7

    # A resumed training adds to these runs; MLflow would refuse the other number of epochs.
    words = [f"--config={RUN / 'config.yaml'}", f"--ckpt_path={RUN}"]
    assert main(["fit", *words, "--trainer.max_epochs=3"]) == 0
    assert (list(wandb_runs(Path("cloud"))), list(mlflow_runs(database))) == ([of_wandb.id], [of_mlflow.id])
    assert len(mlflow_runs(database)[of_mlflow.id].figures["train/loss"]) == 3
    assert len(wandb_runs(Path("cloud"))[of_wandb.id].figures["train/loss"]) == 3


@pytest.mark.slow
def test_reproduce_has_a_run_of_each_stage_and_seed(database: str) -> None:
    pytest.importorskip("wandb")
    services = [logger("WandbLogger", offline=True), logger("MLFlowLogger", tracking_uri=database)]
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--pictures=false"]
    words = [
        "reproduce",
        "digits",
        "--stages=baseline",
        "--seeds=2",
        f"--trainer.logger={json.dumps(services)}",
        *short,
    ]
    assert main(words) == 0
    first = wandb_runs(Path("lightning_logs"))
    assert sorted((run.name, run.project, run.group) for run in first.values()) == [
        ("baseline/seed_0", "digits", "baseline"),
        ("baseline/seed_1", "digits", "baseline"),
    ]
    of_mlflow = mlflow_runs(database)
    assert sorted((run.name, run.project) for run in of_mlflow.values()) == [
        ("baseline/seed_0", "digits"),
        ("baseline/seed_1", "digits"),
    ]
    for logged in (first, of_mlflow):
        errors = {run.name: run.figures["test/errors"] for run in logged.values()}
        expected = [read_results(Path(f"lightning_logs/digits/baseline/seed_{n}"))["test"]["errors"] for n in (0, 1)]
        assert errors == {"baseline/seed_0": [expected[0]], "baseline/seed_1": [expected[1]]}
    update_results(Path("lightning_logs/digits/baseline/seed_1"), test=None)
    assert main(words) == 0  # which tests it again, in the same runs
    assert (wandb_runs(Path("lightning_logs")).keys(), mlflow_runs(database).keys()) == (first.keys(), of_mlflow.keys())


def test_the_default_place_of_a_stage_names_the_run_of_a_service_and_leaves_its_id_free() -> None:
    pytest.importorskip("wandb")
    words = ["fit", "--config=digits/teacher", "--seed_everything=3", "--trainer.logger=WandbLogger"]
    options = lightning.parse(words)["trainer"]["logger"]["init_args"]
    expected = {"version": None, "id": None, "project": "digits", "group": "teacher", "name": "teacher/seed_3"}
    assert {name: options[name] for name in expected} == expected
    options = lightning.parse([*words, "--trainer.logger.version=mine"])["trainer"]["logger"]["init_args"]
    assert options["version"] == "mine"


def test_one_id_for_all_runs_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb")
    words = ["--trainer.logger=WandbLogger", "--trainer.logger.id=mine"]
    assert main(["reproduce", "digits", "--stages=baseline", *words]) == 2
    message = "kd-lightning: error: trainer.logger.id: found, but reproduce sets it for each run"
    assert capsys.readouterr().err.splitlines()[-1] == message


@pytest.mark.slow
def test_a_sweep_has_a_run_of_each_student_and_one_of_the_heat_map(database: str) -> None:
    pytest.importorskip("wandb")
    services = [logger("WandbLogger", offline=True), logger("MLFlowLogger", tracking_uri=database), CSV]
    torch.save(MLP([64, 400, 400, 10]).state_dict(), "teacher.pt")
    words = ["sweep", "digits/distill", "--model.teacher_ckpt=teacher.pt", "--temperatures=1,4", "--soft_weights=0.5"]
    words += ["--data.val_size=100", "--trainer.max_epochs=1", f"--trainer.logger={json.dumps(services)}"]
    assert main(words) == 0
    folder = Path("lightning_logs/sweep/digits_distill")
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ("T1_w0.5_seed0", "T4_w0.5_seed0")
    expected = {f"digits_distill/{name}": float(row["val_accuracy"]) for name, row in zip(names, rows, strict=True)}
    for runs, picture in ((wandb_runs(folder), "sweep/accuracy"), (mlflow_runs(database), "accuracy.png")):
        by_name = {run.name: run for run in runs.values()}
        assert {run.project for run in runs.values()} == {"sweep"}
        assert by_name.pop("digits_distill/all").pictures == {picture}
        found = {name: run.figures["val/accuracy"] for name, run in by_name.items()}
        assert found == {name: [pytest.approx(accuracy, abs=1e-6)] for name, accuracy in expected.items()}
        assert [float(by_name[name].options["temperature"]) for name in expected] == [1, 4]
    for name, accuracy in zip(names, expected.values(), strict=True):
        (line,) = csv.DictReader((folder / name / "csv/metrics.csv").open())
        assert float(line["val/accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    assert not list(folder.rglob("events*"))  # no TensorBoard among those that were chosen
    best = yaml.safe_load((folder / "best.yaml").read_text())["trainer"]["logger"]
    assert [each["class_path"].rpartition(".")[2] for each in best] == [
        *("TensorBoardLogger", "WandbLogger", "MLFlowLogger", "CSVLogger")
    ]
    assert best[1]["init_args"]["name"] == "digits_distill_best/seed_0"


@pytest.mark.parametrize("kind", ["WandbLogger", "MLFlowLogger", "[CSVLogger, WandbLogger]"])
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_config, "find_spec", lambda name: None)
    assert main(["fit", "--config=digits/teacher", f"--trainer.logger={kind}"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    package = "mlflow" if "MLFlow" in kind else "wandb"
    assert f"Logger found, but {package} is not installed: pip install" in line
    assert line.endswith('pip install "kd_lightning[loggers]"')
    assert not Path("lightning_logs").exists()
