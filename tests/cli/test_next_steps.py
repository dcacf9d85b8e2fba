"""What is said at a command's end, and that it holds."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kd_lightning.__main__ import main
from kd_lightning.cli.next_steps import STAGE

CONFIG = Path(__file__).parents[2] / "configs" / "digits" / "teacher.yaml"
RUN = "lightning_logs/digits/teacher/seed_0"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def closing(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(("results: ", "next: "))]


def test_each_command_names_the_next_and_it_can_be_run(capsys):
    assert main(["fit", f"--config={CONFIG}", "--trainer.max_epochs=1"]) == 0
    chain = [closing(capsys)]
    while "IMAGE_OR_FOLDER" not in (words := shlex.split(chain[-1][1].removeprefix("next: "))):
        assert main(words[1:]) == 0
        chain.append(closing(capsys))
    on_run = f"--config {RUN}/config.yaml --ckpt_path {RUN}"
    assert [further for _, further in chain] == [
        f"next: kd-lightning test {on_run}",
        f"next: kd-lightning export {RUN}",
        f"next: kd-lightning predict {RUN}/export/model.onnx IMAGE_OR_FOLDER …",
    ]
    fitted, tested, exported = (results for results, _ in chain)
    assert fitted == f"results: {RUN} (config.yaml, checkpoints)"
    assert tested.startswith(f"results: {RUN} (results.json, confusion.png, errors.png")
    assert exported == f"results: {RUN}/export (model.onnx, model.pt2)"
    assert main(["predict", *shlex.split(on_run)]) == 0
    assert closing(capsys) == [
        f"results: {RUN} (predictions.csv)",
        "next: tensorboard --logdir lightning_logs/digits/teacher",
    ]


def test_nothing_is_named_that_is_not_there(capsys):
    assert main(["fit", f"--config={CONFIG}", "--trainer.fast_dev_run=true"]) == 0
    assert closing(capsys) == []


def test_a_recipe_has_the_last_word_alone(capsys, tmp_path, monkeypatch):
    recipe = ["reproduce", str(CONFIG.parent), "--stages=baseline", "--seeds=1", "--trainer.max_epochs=1"]
    assert main(recipe) == 0
    folder = "lightning_logs/digits"
    results, further = closing(capsys)
    assert results.startswith(f"results: {folder}/report.")
    assert further == f"next: tensorboard --logdir {folder}"


def test_a_process_that_is_a_stage_says_nothing(capsys, monkeypatch):
    monkeypatch.setenv(STAGE, "teacher")
    assert main(["fit", f"--config={CONFIG}", "--trainer.max_epochs=1"]) == 0
    assert closing(capsys) == []


@pytest.mark.slow
def test_of_several_processes_one_speaks(tmp_path):
    words = [f"--config={CONFIG}", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.devices=2"]
    command = [sys.executable, "-m", "kd_lightning", "fit", *words, "--trainer.strategy=ddp"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("results: ") == done.stdout.count("next: ") == 1
