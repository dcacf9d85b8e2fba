"""The dashboard as people see it: TensorBoard in a real browser."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kd_lightning.__main__ import main
from kd_lightning.reports.results import read_results
from tests.browser import CHROMIUM, Browser

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

RECIPE = Path(__file__).parents[1] / "configs/digits"


@pytest.fixture
def tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a TensorBoard that shows a reproduced recipe: teacher, baseline and distilled student."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    short = ["--seeds=1", "--trainer.max_epochs=3", "--data.val_size=100"]
    assert main(["reproduce", str(RECIPE), *short]) == 0
    words = ["--logdir=lightning_logs/digits", "--host=127.0.0.1", "--port=0", "--load_fast=false"]
    with subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stderr
        found = (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in server.stderr)
        yield next(filter(None, found)).group()
        server.terminate()


def test_each_tab_shows_teacher_baseline_and_student(tensorboard: str, tmp_path: Path) -> None:
    runs = ("teacher/seed_0", "baseline/seed_0", "distill/seed_0")
    with Browser(tmp_path / "profile") as browser:
        browser.open(f"{tensorboard}#timeseries", *runs, "norm /gradients", "train 5 cards", "val 9 cards")
        browser.open(f"{tensorboard}#images", *runs, "test/mistakes", "test/reliability", "test/confusion")
        browser.open(f"{tensorboard}#custom_scalars", "Quality", "Loss by part", "KL(teacher || student), nats")
        accuracy = [read_results(Path("lightning_logs/digits", run))["test"]["accuracy"] for run in runs]
        figures = [f"{figure:#.5g}" for figure in accuracy]
        shown = browser.open(f"{tensorboard}#hparams", *runs, "soft_weight", "test/teacher_kl", *figures)
        assert "hp_metric" not in shown
