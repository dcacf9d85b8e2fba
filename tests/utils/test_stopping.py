"""SIGTERM stops every command wherever it is, says how to go on, and exits with 143."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from PIL import Image

from kd_lightning.__main__ import main
from kd_lightning.callbacks import results, setting
from kd_lightning.cli import lightning
from kd_lightning.commands import compare, export, predict, reproduce
from kd_lightning.data import DigitsDataModule
from kd_lightning.modules import ClassifierModule
from kd_lightning.utils.stopping import Stopped, stops_on_sigterm
from tests.made import in_a_process_of_its_own

CONFIGS = Path(__file__).parents[2] / "configs"
RUN = Path("lightning_logs/digits/baseline/seed_0")
RECIPE = ["reproduce", "digits", "--stages=baseline", "--seeds=1", "--trainer.max_epochs=1"]

WITHIN = {
    "reading configs": (lightning, "parse"),
    "reading data": (DigitsDataModule, "load"),
    "setup": (ClassifierModule, "setup"),
    "optimizer": (ClassifierModule, "configure_optimizers"),
    "training": (ClassifierModule, "training_step"),
    "end of an epoch": (ClassifierModule, "on_train_epoch_end"),
    "end of training": (results.ResultsWriter, "on_fit_end"),
    "teardown": (Trainer, "_teardown"),
    "between": (reproduce, "resolve_checkpoint"),
    "test": (ClassifierModule, "test_step"),
    "end of the test": (setting, "measure_latency"),
    "table": (reproduce, "collect"),
}


SLOW = ("reading configs", "optimizer", "end of an epoch", "end of training", "between", "table")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run of one epoch, tested, in `lightning_logs`, and an image."""
    folder, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    os.chdir(folder)
    (folder / "configs").symlink_to(CONFIGS)
    assert in_a_process_of_its_own(RECIPE) == 0
    Image.new("L", (8, 8)).save("a.png")
    yield folder
    os.chdir(before)


def stopped_within(patched: pytest.MonkeyPatch, owner: Any, name: str, words: list[str], number: int) -> int:
    """The status of a command that a signal reaches when a function is first called."""
    function, calls = getattr(owner, name), iter([True])

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(calls, False):
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    patched.setattr(owner, name, interrupted)
    return in_a_process_of_its_own(words)


@pytest.mark.parametrize(
    "moment", [pytest.param(moment, marks=[pytest.mark.slow] if moment in SLOW else []) for moment in WITHIN]
)
def test_a_recipe_is_stopped_wherever_it_is(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(CONFIGS)
    assert stopped_within(monkeypatch, *WITHIN[moment], RECIPE, signal.SIGTERM) == 143
    said = capfd.readouterr().err.splitlines()[-1]
    assert said == f"kd-lightning: stopped by SIGTERM; to go on: kd-lightning {' '.join(RECIPE)}"
    assert not (RUN.parents[1] / "report.html").exists()


FIT = ["fit", "--config=configs/digits/baseline.yaml", "--trainer.max_epochs=1", "--trainer.logger=false"]
RUNS_OWN = [f"--config={RUN}/config.yaml", f"--ckpt_path={RUN}", "--trainer.logger=false"]


@pytest.mark.parametrize(
    ("words", "owner", "name", "number"),
    [
        (["test", *RUNS_OWN], ClassifierModule, "test_step", signal.SIGTERM),
        (["test", *RUNS_OWN], ClassifierModule, "test_step", signal.SIGINT),
        (["predict", *RUNS_OWN], ClassifierModule, "predict_step", signal.SIGTERM),
        (["validate", *RUNS_OWN, "--data.val_size=20"], ClassifierModule, "validation_step", signal.SIGTERM),
        (
            [*FIT, "--trainer.enable_checkpointing=false"],
            ClassifierModule,
            "training_step",
            15,
        ),
        (["predict", str(RUN), "a.png"], predict, "write_text", signal.SIGTERM),
        (["export", str(RUN), "--format=torch"], export, "load_trained", signal.SIGTERM),
        (["compare", str(RUN)], compare, "find_runs", signal.SIGTERM),
    ],
    ids=lambda value: f"{value[0]} {value[1][:9]}" if isinstance(value, list) else "",
)
def test_every_command_is_stopped_at_once(
    words: list[str],
    owner: Any,
    name: str,
    number: int,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = {file: file.stat().st_mtime_ns for file in (trained / RUN).rglob("*")}
    assert stopped_within(monkeypatch, owner, name, words, number) == 128 + number
    assert {file: file.stat().st_mtime_ns for file in (trained / RUN).rglob("*")} == before
    said = capfd.readouterr().err.splitlines()[-1]
    assert said == (
        f"kd-lightning: stopped by SIGTERM; to go on: kd-lightning {' '.join(words)}"
        if number == signal.SIGTERM
        else "kd-lightning: interrupted"
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_python_drops_is_noticed_at_the_end() -> None:
    class Deleted:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped, stops_on_sigterm():
        Deleted()
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_command_leaves_no_handler_behind() -> None:
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert main(["--version"]) == 0
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
