"""Each default callback can be replaced in `trainer.callbacks` and left out by `--disable_callbacks`."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import BasePredictionWriter, ModelCheckpoint

from kd_lightning import callbacks
from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from tests.cli.test_choices import refused, write_config

RUN = Path("lightning_logs/version_0")

PLOTS = {"confusion.png", "errors.png", "mistakes.png", "reliability.png"}

WRITTEN_BY = {
    "BestCheckpoint": {"checkpoints/best.ckpt"},
    "LastCheckpoint": {"checkpoints/last.ckpt"},
    "Dashboard": set(),
    "Describer": set(),
    "Gallery": PLOTS,
    "PredictionWriter": {"predictions.csv"},
    "ResultsWriter": {"metrics.csv"},
}


class OwnBestCheckpoint(callbacks.BestCheckpoint): ...


class OwnLastCheckpoint(callbacks.LastCheckpoint): ...


class OwnDashboard(callbacks.Dashboard): ...


class OwnDescriber(callbacks.Describer): ...


class OwnGallery(callbacks.Gallery): ...


class OwnPredictionWriter(callbacks.PredictionWriter): ...


class OwnResultsWriter(callbacks.ResultsWriter): ...


class OwnWorstMistakes(callbacks.WorstMistakes): ...


class PredictionCounter(BasePredictionWriter):
    def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
        Path("count.txt").write_text(str(sum(map(len, predictions))))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def own(name):
    return [(f"{__name__}.Own{name}", {})]


def fit_test_and_predict(config, *words):
    """Run the three commands; a command that writes no predictions is refused."""
    trained = lightning.main(["fit", config, *words])
    assert main(["test", config, *words, f"--ckpt_path={RUN}", "--verbose=false"]) == 0
    assert main(["predict", config, *words, f"--ckpt_path={RUN}"]) in (0, 2)
    return trained


def files():
    return {str(file.relative_to(RUN)) for file in RUN.rglob("*") if file.is_file()}


def logged_tags():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = set()
    for events in RUN.glob("events.out.*"):
        accumulator = EventAccumulator(str(events))
        accumulator.Reload()
        tags |= {*accumulator.Tags()["scalars"]}
    return tags


def stay_in_run(config):
    """Let all commands write to one folder."""
    content = yaml.safe_load(Path("given.yaml").read_text())
    logger = {"save_dir": ".", "name": "lightning_logs", "version": "version_0"}
    content["trainer"]["logger"] = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": logger,
    }
    Path("given.yaml").write_text(yaml.safe_dump(content))
    return config


@pytest.mark.parametrize("name", WRITTEN_BY)
def test_a_disabled_callback_is_left_out_and_the_others_stay(name):
    config = stay_in_run(write_config())
    trained = fit_test_and_predict(config, f"--disable_callbacks=[{name}]")
    kinds = {type(callback).__name__ for callback in trained.trainer.callbacks}
    assert kinds & set(WRITTEN_BY) == set(WRITTEN_BY) - {name, "PredictionWriter"}
    every = set().union(*WRITTEN_BY.values())
    assert every & files() == every - WRITTEN_BY[name]
    assert ("norm/parameters" in logged_tags()) is (name != "Dashboard")
    checkpoint = next(RUN.glob("checkpoints/*.ckpt"))
    network = torch.load(checkpoint, weights_only=True)["description"]["network"]
    assert (network is None) is (name == "Describer")
    assert (RUN / "results.json").exists() is (name != "ResultsWriter")


@pytest.mark.parametrize("name", WRITTEN_BY)
def test_an_own_callback_replaces_the_default_one_of_its_class(name):
    command = "predict" if name == "PredictionWriter" else "test"
    config = stay_in_run(write_config(own(name)))
    fit_test_and_predict(config)
    assert set().union(*WRITTEN_BY.values()) <= files()
    built = lightning.build([command, config, f"--ckpt_path={RUN}"])
    default = getattr(callbacks, name)
    kinds = [type(callback).__name__ for callback in built.trainer.callbacks if isinstance(callback, default)]
    assert kinds == [f"Own{name}"]
    assert torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["description"]["network"] is not None


def test_an_own_plot_replaces_that_of_the_gallery():
    config = stay_in_run(write_config(own("WorstMistakes")))
    fit_test_and_predict(config)
    trainer = lightning.build(["test", config, f"--ckpt_path={RUN}"]).trainer
    (gallery,) = (callback for callback in trainer.callbacks if isinstance(callback, callbacks.Gallery))
    assert [type(plot).__name__ for plot in gallery._plots] == ["ConfusionMatrix", "ReliabilityDiagram"]
    assert files() >= PLOTS


@pytest.mark.parametrize(("name", "kept"), [("mine", "mine.ckpt"), ("best", "best.ckpt")])
def test_a_checkpoint_of_the_user_s_with_the_same_monitor_stands_beside_the_default_one(name, kept):
    same = {"monitor": "val/accuracy", "mode": "max"}
    own = ("lightning.pytorch.callbacks.ModelCheckpoint", {**same, "filename": name})
    config = stay_in_run(write_config([own]))
    trained = fit_test_and_predict(config)
    assert {file.name for file in RUN.glob("checkpoints/*")} == {"best.ckpt", "last.ckpt", kept}
    assert sum(isinstance(callback, ModelCheckpoint) for callback in trained.trainer.callbacks) == 3
    assert main(["fit", config, f"--ckpt_path={RUN}", "--trainer.max_epochs=3"]) == 0
    assert {"best.ckpt", "last.ckpt"} <= {file.name for file in RUN.glob("checkpoints/*")}


@pytest.mark.parametrize(
    ("name", "options"), [("Best", {"monitor": "val/nll"}), ("Last", {"monitor": "val/loss"}), ("Best", {})]
)
def test_a_checkpoint_of_the_file_of_a_default_one_is_refused_unless_that_is_disabled(name, options, capsys):
    own = ("lightning.pytorch.callbacks.ModelCheckpoint", {"filename": name.lower(), **options})
    config = stay_in_run(write_config([own]))
    message = f"ModelCheckpoint with filename {name.lower()} found, the file of {name}Checkpoint"
    assert message in refused(capsys, "fit", config)
    assert not RUN.exists()
    assert main(["fit", config, f"--disable_callbacks=[{name}Checkpoint]"]) == 0
    assert {file.name for file in RUN.glob("checkpoints/*")} == {"best.ckpt", "last.ckpt"}


def test_the_best_epoch_is_of_the_metric_that_is_monitored():
    best = [("kd_lightning.callbacks.BestCheckpoint", {"monitor": "val/nll", "mode": "min"})]
    trained = lightning.main(["fit", stay_in_run(write_config(best))])
    assert trained.trainer.checkpoint_callback.monitor == "val/nll"
    assert (RUN / "checkpoints/best.ckpt").is_file()


def test_the_choice_is_an_option_of_the_config_that_print_config_shows_and_a_run_keeps(capsys):
    config = stay_in_run(write_config())
    with pytest.raises(SystemExit):
        main(["fit", config, "--disable_callbacks=[Dashboard, Gallery]", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["disable_callbacks"] == ["Dashboard", "Gallery"]
    Path("shown.yaml").write_text(yaml.safe_dump(shown))
    lightning.main(["fit", "--config=shown.yaml"])
    trainer = lightning.build(["test", f"--config={RUN / 'config.yaml'}"]).trainer
    assert not any(isinstance(each, callbacks.Dashboard | callbacks.Gallery) for each in trainer.callbacks)


def test_an_own_gallery_in_a_config_is_kept_by_the_run():
    lightning.main(["fit", stay_in_run(write_config([("kd_lightning.callbacks.Gallery", {})]))])
    assert main(["test", f"--config={RUN / 'config.yaml'}", "--verbose=false"]) == 0
    assert files() >= PLOTS


def test_an_unknown_name_is_one_line(capsys):
    message = refused(capsys, "fit", write_config(), "--disable_callbacks=[Dashbord]")
    assert "disable_callbacks" in message
    assert "Dashbord" in message
    assert "'Dashboard'" in message


def test_predict_without_a_writer_is_refused_and_takes_an_own_one(capsys):
    config = stay_in_run(write_config())
    lightning.main(["fit", config])
    words = ["predict", config, "--disable_callbacks=[PredictionWriter]"]
    assert "predict writes nothing without it" in refused(capsys, *words)
    counter = [(f"{__name__}.PredictionCounter", {"write_interval": "epoch"})]
    stay_in_run(write_config(counter))
    assert main(words) == 0
    assert Path("count.txt").is_file()
    assert "predictions.csv" not in files()


@pytest.mark.parametrize("name", ["ResultsWriter", "LastCheckpoint"])
def test_reproduce_needs_results_and_a_checkpoint_to_resume_from(name, capsys):
    message = refused(capsys, "reproduce", "digits", f"--disable_callbacks=[{name}]")
    assert message == f"kd-lightning: error: disable_callbacks: {name} found, but reproduce needs it"


def test_the_next_command_is_one_that_works(capsys):
    config = stay_in_run(write_config())
    assert main(["fit", config, "--disable_callbacks=[BestCheckpoint, LastCheckpoint]"]) == 0
    assert "next: tensorboard" in capsys.readouterr().out  # there is no checkpoint to test
    assert main(["fit", config, "--disable_callbacks=[ResultsWriter]"]) == 0
    assert "next: kd-lightning test" in capsys.readouterr().out
    assert main(["test", config, "--disable_callbacks=[ResultsWriter]", "--verbose=false"]) == 0
    assert "next: kd-lightning export" in capsys.readouterr().out
