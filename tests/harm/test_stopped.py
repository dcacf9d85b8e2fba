"""A training that was stopped, and went on, leaves what one never stopped leaves."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kd_lightning.__main__ import main
from kd_lightning.models import MLP
from kd_lightning.modules import ClassifierModule
from kd_lightning.reports.results import read_results
from tests.made import in_a_process_of_its_own

BATCHES, EPOCHS = 10, 4
"""Of a run: 200 images in batches of 20."""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher, and the config of a student that draws in every way: order, jitter, dropout."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    torch.save(MLP([64, 16, 10]).state_dict(), "teacher.pt")
    mlp = "kd_lightning.models.MLP"
    model = {
        "net": {"class_path": mlp, "init_args": {"widths": [64, 16, 10], "hidden_dropout": 0.3}},
        "teacher": {"class_path": mlp, "init_args": {"widths": [64, 16, 10]}},
        "teacher_ckpt": str(tmp_path / "teacher.pt"),
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
        "lr_scheduler": {"class_path": "kd_lightning.schedules.CosineDecay", "init_args": {"warmup": 0.2}},
    }
    views = {"class_path": "kd_lightning.data.Shift"}
    data = {"train_size": BATCHES * 20, "val_size": 100, "batch_size": 20, "views": views}
    logger = {"save_dir": "logs", "name": "student", "version": "seed_0"}
    config = {
        "seed_everything": 3,
        "threads": 1,
        "model": {"class_path": "kd_lightning.modules.DistillModule", "init_args": model},
        "data": {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": data},
        "trainer": {
            "max_epochs": EPOCHS,
            "accelerator": "cpu",
            "logger": {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": logger},
            "enable_model_summary": False,
        },
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))


def stop(number: str, batch: int | None) -> list[str]:
    init = f"--trainer.callbacks.init_args.batch={'null' if batch is None else batch}"
    return ["--trainer.callbacks=tests.harm.stop.Stop", f"--trainer.callbacks.init_args.signal_name={number}", init]


def kept(run: str = "logs/student/seed_0") -> Any:
    return torch.load(Path(run, "checkpoints", "last.ckpt"), weights_only=True)


def assert_same(found: Any, expected: Any) -> None:
    """Weights, optimizer, schedule and step, to the last bit; and where the generators are."""
    assert found["global_step"] == expected["global_step"] > 0
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "random"):
        assert_equal(found[part], expected[part])


def assert_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


@pytest.fixture
def never_stopped(_folder: None) -> Any:
    """The last checkpoint of a run that was never stopped; all that it left is gone."""
    assert in_a_process_of_its_own(["fit", "--config=config.yaml"]) == 0
    expected = kept()
    clear()
    return expected


def clear() -> None:
    shutil.rmtree("logs")
    for file in Path().glob("teacher.pt.logits-*"):
        file.unlink()


RESUME = ["fit", "--config=logs/student/seed_0/config.yaml", "--ckpt_path=logs/student/seed_0"]


def stopped_and_resumed(batches: list[int], options: list[str], expected: Any) -> None:
    """Kill a run at each of these batches, and compare what the resumed one leaves."""
    for batch in batches:
        start = ["fit", "--config=config.yaml", *options]
        assert in_a_process_of_its_own([*start, *stop("SIGKILL", batch)]) == -signal.SIGKILL
        resume = RESUME if Path("logs/student/seed_0/checkpoints/last.ckpt").is_file() else start
        assert in_a_process_of_its_own([*resume, "--trainer.callbacks=null"]) == 0
        assert_same(kept(), expected)
        clear()


def test_a_killed_run_goes_on_bit_for_bit(never_stopped: Any) -> None:
    stopped_and_resumed([23], [], never_stopped)


@pytest.mark.slow
def test_ten_runs_killed_at_random_go_on_bit_for_bit(never_stopped: Any) -> None:
    stopped_and_resumed(random.Random(0).sample(range(BATCHES * EPOCHS), 10), [], never_stopped)


PLATEAU = json.dumps(
    {
        "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
        "init_args": {"monitor": "train/loss", "patience": 0, "threshold": 0.3},
    }
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    ["--trainer.accumulate_grad_batches=4", f"--model.lr_scheduler={PLATEAU}", "--trainer.val_check_interval=4"],
    ids=["accumulation", "plateau", "val_check_interval"],
)
def test_ten_kills_of_a_run_that_steps_or_validates_otherwise(option: str) -> None:
    assert in_a_process_of_its_own(["fit", "--config=config.yaml", option]) == 0
    expected = kept()
    clear()
    stopped_and_resumed(random.Random(1).sample(range(BATCHES * EPOCHS), 10), [option], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    "option",
    ["--trainer.accumulate_grad_batches=4", f"--model.lr_scheduler={PLATEAU}", "--trainer.val_check_interval=4"],
    ids=["accumulation", "plateau", "val_check_interval"],
)
def test_a_signal_within_what_steps_or_validates_otherwise(option: str, name: str) -> None:
    assert in_a_process_of_its_own(["fit", "--config=config.yaml", option]) == 0
    expected = kept()
    clear()
    for batch in random.Random(2).sample(range(BATCHES * EPOCHS - 1), 5):
        assert in_a_process_of_its_own(["fit", "--config=config.yaml", option, *stop(name, batch)]) in (130, 143)
        assert in_a_process_of_its_own([*RESUME, "--trainer.callbacks=null"]) == 0
        assert_same(kept(), expected)
        clear()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "moments"), [("SIGKILL", 10), ("SIGTERM", 3)])
def test_two_processes_stopped_at_random_go_on_bit_for_bit(name: str, moments: int) -> None:
    """A network trained on labels: a student's cached logits are those of its own process until the epoch's end."""
    config = yaml.safe_load(Path("config.yaml").read_text())
    config["model"]["class_path"] = "kd_lightning.modules.TeacherModule"
    del config["model"]["init_args"]["teacher"], config["model"]["init_args"]["teacher_ckpt"]
    config["trainer"] |= {"devices": 2, "strategy": "ddp"}
    config["data"]["init_args"]["batch_size"] = 10
    Path("config.yaml").write_text(yaml.safe_dump(config))
    start = ["fit", "--config=config.yaml"]
    assert on_two_processes(start) == 0
    expected = kept()
    shutil.rmtree("logs")
    for batch in random.Random(3).sample(range(BATCHES * EPOCHS), moments):
        assert on_two_processes([*start, *stop(name, batch)]) in (-signal.SIGKILL, 143)
        resume = RESUME if Path("logs/student/seed_0/checkpoints/last.ckpt").is_file() else start
        assert on_two_processes([*resume, "--trainer.callbacks=null"]) == 0
        assert_same(kept(), expected)
        shutil.rmtree("logs")


def on_two_processes(words: list[str]) -> int:
    """The status of the first process, which starts the other by repeating its command line."""
    command = [sys.executable, "-m", "kd_lightning", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        status = process.wait(timeout=180)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the second, where the first was killed before it
    return status


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "batch"),
    [
        ("--model.steps_at_once=4", 8),  # three calls from Lightning an epoch
        ("--data.num_workers=2", 23),
        ("--model.cache_teacher=false", 23),
        ("--trainer.precision=bf16-mixed", 23),
    ],
    ids=["steps at once", "workers", "live teacher", "bf16"],
)
def test_a_killed_run_of_another_kind_goes_on_bit_for_bit(option: str, batch: int) -> None:
    assert in_a_process_of_its_own(["fit", "--config=config.yaml", option]) == 0
    expected = kept()
    clear()
    stopped_and_resumed([batch], [option], expected)


@pytest.mark.parametrize(
    ("number", "batch", "steps"),
    [("SIGTERM", 13, 14), ("SIGINT", 19, 20), ("SIGINT", None, BATCHES)],
    ids=["within an epoch", "at its end", "in a validation"],
)
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(
    number: str, batch: int | None, steps: int, never_stopped: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    status = in_a_process_of_its_own(["fit", "--config=config.yaml", *stop(number, batch)])
    assert status == 128 + signal.Signals[number]
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("kd-lightning:")]
    words = RESUME[0], "--config logs/student/seed_0/config.yaml --ckpt_path logs/student/seed_0/checkpoints/last.ckpt"
    assert said == [f"kd-lightning: stopped by {number} after step {steps}; to go on: kd-lightning {' '.join(words)}"]
    assert kept()["global_step"] == steps
    assert in_a_process_of_its_own([*RESUME, "--trainer.callbacks=null"]) == 0
    assert_same(kept(), never_stopped)


@pytest.mark.slow
def test_the_console_command_is_stopped_from_outside(never_stopped: Any) -> None:
    words = [sys.executable, "-m", "kd_lightning", "fit", "--config=config.yaml", *stop("SIGTERM", 5)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run(words, check=False, env=environment).returncode == 143
    resume = [*words[:3], *RESUME, "--trainer.callbacks=null"]
    assert subprocess.run(resume, check=False, env=environment).returncode == 0
    assert_same(kept(), never_stopped)


@pytest.mark.slow
def test_a_job_that_slurm_requeues_goes_on(never_stopped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning answers SLURM's signal: it writes a checkpoint, and has the job queued again."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/sh\necho "$@" > requeued\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)
    job = {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    command = ["fit", "--config=config.yaml", "--trainer.default_root_dir=job"]
    killed = [word.replace("callbacks=", "callbacks+=") for word in stop("SIGKILL", 16)]
    asked = [word.replace("callbacks=", "callbacks+=") for word in stop("SIGUSR1", 13)]
    assert in_a_process_of_its_own([*command, *asked, *killed]) == -signal.SIGKILL
    assert Path("requeued").read_text() == "requeue 7\n"
    best = torch.load("logs/student/seed_0/checkpoints/best.ckpt", weights_only=True)
    assert in_a_process_of_its_own(command) == 0
    assert_same(kept(), never_stopped)
    assert kept()["callbacks"]["ResultsWriter"]["label"] == best["callbacks"]["ResultsWriter"]["label"]
    assert read_results(Path("logs/student/seed_0"))["label"] == best["callbacks"]["ResultsWriter"]["label"]
    assert Path("logs/student/seed_0/checkpoints/best.ckpt").is_file()


@pytest.fixture
def recipe(_folder: None) -> list[str]:
    """The command of a recipe of the student alone."""
    config = yaml.safe_load(Path("config.yaml").read_text())
    del config["trainer"]["logger"]
    Path("mine.yaml").write_text(yaml.safe_dump({"title": "Student", "stages": {"student": {"config": config}}}))
    return ["reproduce", "mine.yaml", "--seeds=1"]


@pytest.mark.slow
def test_a_recipe_that_was_killed_goes_on_bit_for_bit(recipe: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_a_process_of_its_own(recipe) == 0
    expected = kept("lightning_logs/mine/student/seed_0")
    shutil.rmtree("lightning_logs")
    steps = iter(range(1000))
    step = ClassifierModule.training_step

    def killed(*words: Any) -> Any:
        if next(steps) == 25:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*words)

    with monkeypatch.context() as patched:
        patched.setattr(ClassifierModule, "training_step", killed)
        assert in_a_process_of_its_own(recipe) == -signal.SIGKILL
    left = kept("lightning_logs/mine/student/seed_0")["global_step"]
    assert left == 2 * BATCHES
    assert in_a_process_of_its_own(recipe) == 0
    assert_same(kept("lightning_logs/mine/student/seed_0"), expected)


@pytest.mark.slow
def test_a_recipe_that_sigterm_reaches_at_ten_random_moments_stops_each_time(recipe: list[str]) -> None:
    """From loading torch to the table: status 143 within seconds, and in the end a recipe as never stopped."""
    words = [sys.executable, "-m", "kd_lightning", *recipe]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    start = time.monotonic()
    assert subprocess.run(words, check=False, env=environment).returncode == 0
    length = time.monotonic() - start
    expected = kept("lightning_logs/mine/student/seed_0")
    clear_recipe()
    moments = random.Random(0)
    for number in range(10):
        with subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            time.sleep(max(0.5, length * moments.random() * 0.95))
            process.send_signal(signal.SIGTERM)
            sent = time.monotonic()
            printed, said = process.communicate()
        if process.returncode == -signal.SIGTERM:  # the recipe had ended, Python was leaving
            assert "report.html" in printed, said
        elif process.returncode:  # a run that goes on takes less time than a whole one
            assert process.returncode == 143, said
            assert time.monotonic() - sent < 5
            assert (
                said.splitlines()[-1] == f"kd-lightning: stopped by SIGTERM; to go on: kd-lightning {' '.join(recipe)}"
            )
        if number % 3 == 2:
            clear_recipe()
    assert subprocess.run(words, check=False, env=environment).returncode == 0
    assert_same(kept("lightning_logs/mine/student/seed_0"), expected)


def clear_recipe() -> None:
    shutil.rmtree("lightning_logs", ignore_errors=True)
    for file in Path().glob("teacher.pt.logits-*"):
        file.unlink()


def test_two_of_one_recipe_wait_for_each_other(recipe: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            os._exit(main(recipe))
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    said = " ".join(capfd.readouterr().out.split())
    assert said.count("finished before, kept") == 1
    assert "errors," in said
    comparison = json.loads(Path("lightning_logs/mine/comparison.json").read_text())
    assert len(comparison["rows"]) == 1
