"""Run the scripts under `examples/`."""

import csv
import os
import re
import runpy
import shutil
import statistics
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from kd_lightning.__main__ import main
from kd_lightning.reports.results import read_results

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    monkeypatch.syspath_prepend(str(EXAMPLES))


def run(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["own_network", "own_loss", "own_data"])
def test_students_with_custom_parts_learn(name, capsys):
    accuracies = [float(accuracy) for accuracy in re.findall(r"test accuracy ([\d.]+)%", run(name, capsys))]
    assert len(accuracies) == (2 if name == "own_loss" else 1)
    assert min(accuracies) > 65


def test_an_ensemble_is_distilled(capsys):
    output = run("ensemble_teacher", capsys)
    errors = {who: int(count) for who, count in re.findall(r"^(.*): (\d+) errors of 360$", output, re.M)}
    assert list(errors) == [
        "member 0",
        "member 1",
        "member 2",
        "distilled from one teacher",
        "distilled from all three",
    ]
    assert max(errors.values()) < 90


def notebook():
    return nbformat.read(EXAMPLES / "distil_your_own.ipynb", as_version=4)


def test_the_notebook_has_eight_cells_of_code_and_no_outputs():
    found = notebook()
    nbformat.validate(found)
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    assert len(code) == 8
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_the_notebook_distils_and_exports_a_student(monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = notebook()
    NotebookClient(done, timeout=300).execute()  # raises the error of a cell in Python
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    words = "".join(output.get("text", "") for output in outputs)
    assert "error:" not in words  # of a command
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2  # curves and mistakes
    accuracies = {
        stage: [read_results(run)["test"]["accuracy"] for run in Path(f"lightning_logs/mine/{stage}").glob("seed_*")]
        for stage in ("teacher", "baseline", "distill")
    }
    assert [len(its) for its in accuracies.values()] == [1, 3, 3]
    assert statistics.fmean(accuracies["distill"]) > statistics.fmean(accuracies["baseline"]) > 0.8
    with Path("predictions.csv").open() as file:
        classes = [line["class"] for line in csv.DictReader(file)]
    assert len(classes) == 37
    assert classes.count("3") > 15


def test_every_example_is_tested():
    assert {file.stem for file in EXAMPLES.glob("*.py")} == {"own_network", "own_loss", "own_data", "ensemble_teacher"}


def test_an_ensemble_and_a_loss_are_named_in_a_config(capsys):
    digits, teacher = ROOT / "configs" / "digits", Path("lightning_logs/digits/teacher")
    assert main(["fit", f"--config={digits / 'teacher.yaml'}", "--trainer.max_epochs=1"]) == 0
    for seed in (1, 2):  # stand in for the other teachers
        shutil.copytree(teacher / "seed_0", teacher / f"seed_{seed}")
    words = [f"--config={EXAMPLES / 'ensemble_teacher.yaml'}", "--trainer.max_epochs=1"]
    assert main(["fit", *words]) == 0
    assert main(["test", *words]) == 0
    run = "lightning_logs/examples/ensemble/seed_0"
    for further in ([], words[:1]):  # from the checkpoint alone, and with its config
        capsys.readouterr()
        assert main(["export", run, "--format=torch", *further]) == 0
        assert "teacher EnsembleTeacher, PyTorch" in capsys.readouterr().out
    words = ["--model.soft_loss=own_loss.logit_distance", "--trainer.max_epochs=1"]
    assert main(["fit", f"--config={digits / 'distill.yaml'}", *words]) == 0
    sys.modules.pop("own_loss")
