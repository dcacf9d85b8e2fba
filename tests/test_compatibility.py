"""A checkpoint that an earlier version wrote is tested, taught from and gone on from, for ever."""

import json
from pathlib import Path

import pytest
import torch

from kd_lightning.__main__ import main
from kd_lightning.checkpoints.weights import load_weights
from kd_lightning.models import MLP

FIXTURES = Path(__file__).parent / "fixtures"

STOPPED, FINISHED = 148, 111
"""Errors of 360, as the version that wrote the checkpoint found them."""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def errors() -> int:
    return int(json.loads(Path("logs/mlp/seed_0/results.json").read_text())["test"]["errors"])


@pytest.mark.parametrize("version", ["0_1_0"])
def test_a_checkpoint_of_an_earlier_version_is_tested_and_gone_on_from(version: str) -> None:
    """It was stopped within the third of five epochs."""
    file = FIXTURES / f"checkpoint_{version}.ckpt"
    config = f"--config={file.with_suffix('.yaml')}"
    assert main(["test", config, f"--ckpt_path={file}"]) == 0
    assert errors() == pytest.approx(STOPPED, abs=2)
    assert main(["fit", config, f"--ckpt_path={file}"]) == 0
    assert json.loads(Path("logs/mlp/seed_0/results.json").read_text())["fit"]["steps"] == 100
    assert main(["test", config, "--ckpt_path=logs/mlp/seed_0/checkpoints/last.ckpt"]) == 0
    assert errors() == pytest.approx(FINISHED, abs=10)


def test_a_checkpoint_of_an_earlier_version_teaches() -> None:
    network = MLP([64, 8, 10], hidden_dropout=0.2)
    load_weights(network, FIXTURES / "checkpoint_0_1_0.ckpt", "teacher_ckpt")
    first = next(network.parameters()).flatten()[:3]
    torch.testing.assert_close(first, torch.tensor([-0.0847667, -0.2198068, -0.2443682]))
