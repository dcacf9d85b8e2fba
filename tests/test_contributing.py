"""Follow the steps of CONTRIBUTING.md in a copy of the repository."""

import filecmp
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("kd_lightning", "configs", "docs", "tests", "lightning_logs/measured", "pyproject.toml")

LOSS = '''
"""A loss on the logits."""

import torch.nn.functional as F
from torch import Tensor


def huber_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Compute the mean Huber loss of the logits."""
    return F.huber_loss(student_logits, teacher_logits)
'''
LOSS_TEST = """
import torch
from kd_lightning.losses.huber import huber_loss


def test_it():
    assert huber_loss(torch.tensor([[0.0, 3.0]]), torch.zeros(1, 2), 1.0) == 1.25  # (0 + 3 - 0.5) / 2
"""
DATASET = '''
"""Scikit-learn's digits, white on black."""

from typing import Any

from kd_lightning.data.digits import DigitsDataModule
from kd_lightning.data.module import ClassificationDataModule
from kd_lightning.data.sets import ImageSet


class NegativeDataModule(ClassificationDataModule):
    """The digits with inverted grey levels."""

    class_names = tuple("0123456789")
    image_shape = (1, 8, 8)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(mean=(0.6946,), std=(0.3755,), **kwargs)

    def load(self, train: bool) -> ImageSet:
        """Invert scikit-learn's images."""
        digits = DigitsDataModule().load(train)
        return ImageSet(255 - digits.image, digits.label)
'''
DATASET_TEST = """
from kd_lightning.data.negative import NegativeDataModule


def test_it():
    assert NegativeDataModule().load(train=False).image.shape == (360, 1, 8, 8)
"""
STAGE = """
# Distilled at a higher temperature.
# Source: none.
# Command: kd-lightning fit --config configs/digits/distill_warm.yaml
# Published figure: none.
# Known deviation: none.
stage: {main: false}
model:
  teacher: {class_path: kd_lightning.models.MLP, init_args: {widths: [64, 400, 400, 10]}}
  teacher_ckpt: lightning_logs/digits/teacher/seed_0
  temperature: 8.0
"""

DEVICE, CELLS = '\n        Column("device", lambda', "def cells(comparison"
COLUMN = """
        Column("errors per second", _errors_per_second, "errors_per_second", _errors_per_second_of_run),
        Column("device", lambda"""
COLUMN_FUNCTIONS = """
def _errors_per_second(row: Row) -> str:
    return f"{sum(row.errors) / sum(run.seconds for run in row.runs):.1f}"


def _errors_per_second_of_run(row: Row, run: RunFigures) -> float:
    return run.errors / run.seconds


def cells(comparison"""
COLUMN_TEST = """
from kd_lightning.reports.columns import columns
from kd_lightning.reports.rows import Row, RunFigures


def test_it():
    run = RunFigures(0, 30, 2.0, None, None, {})
    row = Row("a", "errors", None, [run], 100, None, 1, 1.0, None, "cpu", 1)
    (column,) = [column for column in columns([row]) if column.key == "errors_per_second"]
    assert (column.text(row), column.value(row, run)) == ("15.0", 15.0)
"""
COLUMNS = (ROOT / "kd_lightning" / "reports" / "columns.py").read_text()

SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
"""Options that make a training short."""


def steps(section: str) -> list[str]:
    """Return the numbered lines of a section."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (body,) = re.findall(rf"^## {section}\n\n(.*?)\n\n", text, re.M | re.S)
    lines = body.splitlines()
    assert [line[:2] for line in lines] == ["1.", "2.", "3.", "4.", "5."], "five lines"
    return lines


def changed_files(tree: Path) -> set[str]:
    """List the files of a copy of the repository that are new or differ from it."""
    files = (
        file for part in COPIED for file in ([tree / part] if (tree / part).is_file() else (tree / part).rglob("*"))
    )
    names = {str(file.relative_to(tree)) for file in files if file.is_file() and "__pycache__" not in file.parts}
    return {name for name in names if not (ROOT / name).is_file() or not filecmp.cmp(ROOT / name, tree / name, False)}


def run(command: str, tree: Path, folder: Path) -> None:
    """Run a command of a step in a folder, with the package of the copy."""
    words = shlex.split(command)
    program = (
        [sys.executable, *words[1:]] if words[0] == "python" else [sys.executable, "-m", "kd_lightning", *words[1:]]
    )
    done = subprocess.run(
        program, cwd=folder, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    if words[0] == "python":
        assert " passed" in done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Copy the repository."""
    for part in COPIED:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "recipes")
            shutil.copytree(ROOT / part, tmp_path / "tree" / part, ignore=ignored if part == "docs" else None)
        else:
            shutil.copy(ROOT / part, tmp_path / "tree" / part)
    return tmp_path / "tree"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "names", "files", "options", "most"),
    [
        (
            "Add a loss",
            {"<name>": "huber"},
            {"kd_lightning/losses/huber.py": LOSS, "tests/losses/test_huber.py": LOSS_TEST},
            [*SHORT, "--model.teacher_ckpt=null"],
            3,
        ),
        (
            "Add a dataset",
            {"<name>": "negative", "<Name>": "Negative"},
            {"kd_lightning/data/negative.py": DATASET, "tests/data/test_negative.py": DATASET_TEST},
            SHORT,
            3,
        ),
        (
            "Add a stage of a recipe",
            {"<recipe>": "digits", "<stage>": "distill_warm"},
            {"configs/digits/distill_warm.yaml": STAGE},
            [*SHORT, "--seeds=1"],
            1,
        ),
        (
            "Add a column to the results table",
            {"<name>": "errors_per_second"},
            {
                "kd_lightning/reports/columns.py": COLUMNS.replace(DEVICE, COLUMN).replace(
                    CELLS, COLUMN_FUNCTIONS.strip("\n")
                ),
                "tests/reports/test_errors_per_second.py": COLUMN_TEST,
            },
            [],
            3,
        ),
    ],
)
def test_the_five_steps_work(
    section: str,
    names: dict[str, str],
    files: dict[str, str],
    options: list[str],
    most: int,
    tree: Path,
    tmp_path: Path,
) -> None:
    text = "\n".join(steps(section))
    for placeholder, name in names.items():
        text = text.replace(placeholder, name)
    for path, content in files.items():
        assert f"`{path}`" in text
        (tree / path).write_text(content.lstrip())
    if directive := re.search(r"`(\.\. auto\w+:: (\S+))`", text):
        page = tree / "docs" / "api.md"
        page.write_text(page.read_text().replace("```{eval-rst}\n", f"```{{eval-rst}}\n{directive[1]}\n", 1))
        module, _, name = directive[2].rpartition(".")
        assert re.search(rf"^(def|class) {name}\b", (tree / f"{module.replace('.', '/')}.py").read_text(), re.M)
    check, use = re.findall(r"^[45]\. [^`]*`([^`]+)`", text, re.M)
    assert len(changed_files(tree)) <= most
    run(check, tree, tree)
    run(shlex.join([*shlex.split(use), *options]), tree, tree if "lightning_logs" in use else tmp_path)
