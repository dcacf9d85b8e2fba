"""All files of a run are in one folder, whichever loggers it has, and paths are what a user means."""

import csv
import json
import sys
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from kd_lightning.__main__ import main
from kd_lightning.checkpoints.weights import resolve_checkpoint
from kd_lightning.cli import lightning
from kd_lightning.data import ImageFolderDataModule, MNISTDataModule
from kd_lightning.errors import UserError
from kd_lightning.utils.paths import expand
from kd_lightning.utils.run_folder import run_folder
from tests.commands.made import write_run

LOGGERS = "lightning.pytorch.loggers"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def logger(kind, **options):
    return {"class_path": f"{LOGGERS}.{kind}", "init_args": options}


TENSORBOARD = logger("TensorBoardLogger", save_dir="logs", name="digits")
NUMBERED = logger("TensorBoardLogger", save_dir="logs", name="digits", version="seed_0", sub_dir="events")
CSV = logger("CSVLogger", save_dir="tables", name="digits")
WANDB = logger("WandbLogger", save_dir="cloud", project="digits", offline=True)


MLFLOW = logger("MLFlowLogger", tracking_uri="sqlite:///runs.db")


def write_config(loggers, **trainer):
    net = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 10]}}
    config = {
        "seed_everything": 0,
        "threads": 1,
        "model": {"class_path": "kd_lightning.modules.TeacherModule", "init_args": {"net": net}},
        "data": {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": {"train_size": 64, "val_size": 32}},
        "trainer": {"max_epochs": 1, "enable_model_summary": False, "logger": loggers, **trainer},
    }
    Path("given.yaml").write_text(yaml.safe_dump(config))
    return "--config=given.yaml"


def runs():
    return sorted({str(file.parent) for name in ("config.yaml", "results.json") for file in Path().rglob(name)})


def epochs(run):
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["train/loss"] and row["val/accuracy"] for row in rows)
    return [(row["epoch"], row["step"]) for row in rows]


@pytest.mark.parametrize(
    ("loggers", "folder"),
    [
        pytest.param(*(TENSORBOARD, "logs/digits/version_0"), marks=pytest.mark.slow),
        pytest.param(*(NUMBERED, "logs/digits/seed_0"), marks=pytest.mark.slow),
        pytest.param(*(CSV, "tables/digits/version_0"), marks=pytest.mark.slow),
        (WANDB, "cloud/digits/*"),
        ([WANDB, NUMBERED], "logs/digits/seed_0"),
        ([CSV, TENSORBOARD], "logs/digits/version_0"),
        pytest.param(*([TENSORBOARD, CSV], "logs/digits/version_0"), marks=pytest.mark.slow),
        pytest.param(*([WANDB, CSV], "tables/digits/version_0"), marks=pytest.mark.slow),
        pytest.param(*(MLFLOW, "1/*"), marks=pytest.mark.slow),
        (None, "lightning_logs/version_0"),
        pytest.param(*(True, "lightning_logs/version_0"), marks=pytest.mark.slow),
        (False, "."),
    ],
    ids=str,
)
def test_fit_test_predict_and_resuming_share_one_folder_whichever_the_loggers(loggers, folder):
    if "Wandb" in str(loggers):
        pytest.importorskip("wandb")
    if "MLFlow" in str(loggers):
        pytest.importorskip("mlflow")
    assert main(["fit", write_config(loggers)]) == 0
    (run,) = Path().glob(folder) if folder != "." else [Path()]
    config = f"--config={run / 'config.yaml'}"
    assert main(["test", config]) == main(["predict", config]) == 0
    assert json.loads((run / "results.json").read_text())["test"]["images"] == 360
    assert main(["fit", config, f"--ckpt_path={run}", "--trainer.max_epochs=2"]) == 0
    assert runs() == [str(run)]
    results = json.loads((run / "results.json").read_text())
    assert results["fit"]["epochs"] == 2
    assert "test" not in results  # those figures were of the shorter training
    found = {file.name for file in run.iterdir()}
    assert {"config.yaml", "checkpoints", "predictions.csv", "confusion.png", "mistakes.png"} <= found
    if folder.startswith("tables"):
        assert (run / "metrics.csv").is_file()  # the logger's own
    else:
        assert epochs(run) == [("0", "0"), ("1", "1")]
    checkpoints = [file for file in Path().rglob("*.ckpt") if "wandb" not in file.parts]
    assert {file.parent for file in checkpoints} == {run / "checkpoints"}


def test_runs_of_weights_and_biases_do_not_overwrite_each_other():
    pytest.importorskip("wandb")
    config = write_config(WANDB)
    assert main(["fit", config]) == main(["fit", config]) == 0
    assert len(runs()) == 2
    assert all(Path(run).parent == Path("cloud/digits") for run in runs())


def test_a_test_of_a_run_adds_to_its_table_of_metrics():
    assert main(["fit", write_config(CSV)]) == 0
    assert main(["test", "--config=tables/digits/version_0/config.yaml"]) == 0
    with Path("tables/digits/version_0/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(bool(row["val/accuracy"]) for row in rows) == sum(bool(row["train/loss"]) for row in rows) == 1
    assert sum(bool(row["test/accuracy"]) for row in rows) == 1


def test_curves_are_those_of_the_training_that_is_resumed():
    config = [write_config(NUMBERED), "--trainer.check_val_every_n_epoch=2"]
    run = Path("logs/digits/seed_0")
    lightning.main(["fit", *config, "--trainer.max_epochs=2", "--pictures=false"])
    file = run / "metrics.csv"
    header, first, second = file.read_text().splitlines()
    column = header.split(",").index("val/accuracy")
    assert [bool(row.split(",")[column]) for row in (first, second)] == [False, True]  # not that of the epoch before
    # Killed within the third epoch: what comes after the checkpoint is trained again.
    file.write_text(f"{file.read_text()}2,2,0.5\n")
    lightning.main(["fit", *config, "--trainer.max_epochs=4", f"--ckpt_path={run}"])
    assert [row.split(",")[:2] for row in file.read_text().splitlines()[1:]] == [
        *(["0", "0"], ["1", "1"], ["2", "2"], ["3", "3"])
    ]
    assert file.read_text().splitlines()[:3] == [header, first, second]
    lightning.main(["fit", *config])
    assert [row.split(",")[:2] for row in file.read_text().splitlines()[1:]] == [["0", "0"]]  # a new training


def test_a_table_of_the_user_s_stays_where_a_run_has_no_folder_of_its_own():
    Path("metrics.csv").write_text("mine")
    assert main(["fit", write_config(False)]) == 0
    assert Path("metrics.csv").read_text() == "mine"
    assert Path("results.json").is_file()


def test_another_folder_for_a_test_is_the_user_s_choice():
    assert main(["fit", write_config(TENSORBOARD)]) == 0
    config = "--config=logs/digits/version_0/config.yaml"
    assert main(["test", config, "--trainer.logger.save_dir=elsewhere"]) == 0
    assert runs() == ["elsewhere/digits/version_0", "logs/digits/version_0"]


def test_a_new_fit_by_a_run_s_config_begins_another_run():
    assert main(["fit", write_config(TENSORBOARD)]) == 0
    assert main(["fit", "--config=logs/digits/version_0/config.yaml"]) == 0
    assert runs() == ["logs/digits/version_0", "logs/digits/version_1"]


def test_a_config_that_was_left_empty_by_a_full_disk_is_no_file_of_the_user_s():
    run = Path("logs/digits/seed_0")
    run.mkdir(parents=True)
    for left in ("", "# lightning.py"):
        (run / "config.yaml").write_text(left)
        assert main(["fit", write_config(NUMBERED)]) == 0
        assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 1


def test_the_order_of_loggers_decides_nothing_from_python():
    both = [CSVLogger("tables", "a", 3), TensorBoardLogger("logs", "b", "c")]
    for loggers in (both, both[::-1]):
        assert run_folder(Trainer(logger=loggers, accelerator="cpu")) == Path("logs/b/c")
    assert run_folder(Trainer(logger=both[0], accelerator="cpu")) == Path("tables/a/version_3")
    assert run_folder(Trainer(logger=False, default_root_dir="here", accelerator="cpu")) == Path("here")


HOME, VARIABLE = "~/runs", "$STORE/${PART}"


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("TensorBoardLogger", HOME),
        ("default", VARIABLE),
        pytest.param("TensorBoardLogger", VARIABLE, marks=pytest.mark.slow),
        pytest.param("CSVLogger", HOME, marks=pytest.mark.slow),
        pytest.param("default", HOME, marks=pytest.mark.slow),
    ],
)
def test_home_and_variables_in_the_folder_of_a_run(kind, written, tmp_path, monkeypatch):
    monkeypatch.setenv("STORE", str(tmp_path / "home"))
    monkeypatch.setenv("PART", "runs")
    there = tmp_path / "home/runs"
    if kind == "default":
        config, run = write_config(None, default_root_dir=written), there / "lightning_logs/version_0"
    else:
        config, run = write_config(logger(kind, save_dir=written, name="a", version=0)), there / "a/version_0"
    assert main(["fit", config]) == 0
    shown = str(run).replace(str(there), written)
    assert main(["test", f"--config={shown}/config.yaml", f"--ckpt_path={shown}"]) == 0
    assert {"fit", "test"} <= set(json.loads((run / "results.json").read_text()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.yaml", "home"]


def test_home_and_variables_in_options_and_configs(tmp_path, monkeypatch):
    monkeypatch.setenv("STORE", str(tmp_path))
    assert main(["fit", write_config(NUMBERED)]) == 0
    home = tmp_path / "home"
    home.mkdir()
    Path("given.yaml").rename(home / "given.yaml")
    words = ["fit", "--config", "~/given.yaml", "--model=kd_lightning.modules.DistillModule"]
    words += ["--model.teacher=kd_lightning.models.MLP", "--model.teacher.widths=[64,10]"]
    words += ["--model.teacher_ckpt=${STORE}/logs/digits/seed_0", "--trainer.logger.save_dir=$STORE/students"]
    assert main(words) == 0
    config = yaml.safe_load(Path("students/digits/seed_0/config.yaml").read_text())
    assert config["model"]["init_args"]["teacher_ckpt"] == f"{tmp_path}/logs/digits/seed_0"
    assert resolve_checkpoint("$STORE/logs/digits/seed_0", "ckpt_path").is_file()
    for name in ("a", "b"):
        (tmp_path / "images/train" / name).mkdir(parents=True)
    data = ImageFolderDataModule("$STORE/images", cache_dir="~/cache")
    assert (data.root, str(data.cache_dir)) == (tmp_path / "images", str(home / "cache"))
    assert MNISTDataModule("~/mnist").root == str(home / "mnist")


def test_home_and_variables_in_options_of_our_own_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("STORE", str(tmp_path / "home"))
    write_run(tmp_path / "home", "distill", 0)
    assert main(["compare", "~/made", "--output=$STORE/out", "--runs=$STORE"]) == 0
    assert main(["compare", "${STORE}/made/distill", "--output=~/out"]) == 0
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["made", "out"]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.logger.save_dir=$NOWHERE/runs"], "save_dir: $NOWHERE/runs found, but the variable $NOWHERE is"),
        (["--trainer.default_root_dir=${NOWHERE}"], "default_root_dir: ${NOWHERE} found, but the variable ${NOWHERE}"),
        (["--trainer.logger.save_dir=~nobody-here/x"], "save_dir: ~nobody-here/x found, but ~nobody-here has no home"),
        (["--ckpt_path=$NOWHERE"], "ckpt_path: $NOWHERE found"),
        (["--config=$NOWHERE/a.yaml"], "--config: $NOWHERE/a.yaml found"),
    ],
)
def test_a_variable_that_is_not_set_is_named_and_nothing_is_written(words, message, capsys):
    config = write_config(TENSORBOARD)
    assert main(["fit", config, *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in Path().iterdir()] == ["given.yaml"]


@pytest.mark.parametrize("words", [["compare", "$NOWHERE"], ["reproduce", "digits", "--runs", "$NOWHERE/x"]])
def test_a_variable_that_is_not_set_is_named_by_our_own_commands(words, capsys):
    assert main(words) == 2
    assert "found, but the variable $NOWHERE is not set" in capsys.readouterr().err.splitlines()[-1]


def test_a_dollar_in_the_name_of_a_file_that_is_there_is_a_dollar(tmp_path):
    Path("cost$5.yaml").touch()
    assert expand("cost$5.yaml", "config") == "cost$5.yaml"
    assert expand("100$", "root") == "100$"
    assert expand("a/~/b", "root") == "a/~/b"
    assert expand("~", "root") == str(tmp_path / "home")
    with pytest.raises(UserError, match=r"root: cost\$6.yaml found, but the variable \$6 is not set"):
        expand("cost$6.yaml", "root")


def test_the_saved_config_is_what_was_parsed():
    trained = lightning.main(["fit", write_config(NUMBERED)])
    saved = Path("logs/digits/seed_0/config.yaml").read_text()
    assert saved.startswith("# lightning.pytorch==")
    assert yaml.safe_load(saved) == {name: value for name, value in trained.config_dump.items() if name != "config"}
