"""`load_from_checkpoint` of checkpoints from the command line and from Python."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

import kd_lightning.models  # as the shown call names it
from kd_lightning.__main__ import main
from kd_lightning.errors import UserError
from kd_lightning.models import MLP
from kd_lightning.modules import DistillModule, TeacherModule
from tests.data.made import MadeDataModule

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def by_command(kind: str) -> str:
    """Train by the command line; the run folder."""
    mlp = '={"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [36, 4, 3]}}'
    words = ["fit", f"--model=kd_lightning.modules.{kind}", f"--model.net{mlp}"]
    words += [f"--model.teacher{mlp}"] if kind == "DistillModule" else []
    words += ["--data=tests.data.made.MadeDataModule", "--data.batch_size=12", "--trainer.accelerator=cpu"]
    assert main([*words, "--trainer.max_epochs=1"]) == 0
    return "lightning_logs/version_0"


def in_python(kind: str) -> str:
    network = MLP([36, 4, 3])
    module = TeacherModule(network) if kind == "TeacherModule" else DistillModule(network, MLP([36, 3]))
    trainer = Trainer(max_epochs=1, **QUIET)
    trainer.fit(module, MadeDataModule(batch_size=12))
    trainer.save_checkpoint("made.ckpt")
    return "made.ckpt"


@pytest.mark.parametrize("made", [by_command, in_python])
@pytest.mark.parametrize("kind", [TeacherModule, DistillModule])
def test_a_checkpoint_is_loaded_or_the_message_is_the_call(kind: Any, made: Any) -> None:
    path = made(kind.__name__)
    with pytest.raises(UserError) as caught:
        kind.load_from_checkpoint(path)
    said = str(caught.value)
    assert "\n" not in said
    missing = "net" if kind is TeacherModule else "net and teacher"
    assert said.startswith(f"load_from_checkpoint: {missing} not given, which {path}")
    call = said.partition(" does not hold: ")[2]
    names = {"kd_lightning": kd_lightning, kind.__name__: kind, "TEACHER": MLP([36, 3]), "FILE": None}
    if made is in_python:
        assert "net=NETWORK" in call
        names["NETWORK"] = MLP([36, 4, 3])
    torch.manual_seed(3)
    loaded = eval(call, names)
    file = Path(path) if made is in_python else Path(path, "checkpoints", "last.ckpt")
    weights = torch.load(file, weights_only=True)["state_dict"]
    assert all(torch.equal(weights[f"net.{name}"], value) for name, value in loaded.net.state_dict().items())
    assert "test/accuracy" in Trainer(**QUIET).test(loaded, MadeDataModule(), verbose=False)[0]


def test_a_training_of_loaded_weights_begins_anew() -> None:
    path = in_python("TeacherModule")
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        network = MLP([36, 4, 3], input_dropout=0.5)
        module = TeacherModule.load_from_checkpoint(path, net=network, optimizer=partial(torch.optim.SGD, lr=0.01))
        torch.manual_seed(seed)
        Trainer(max_epochs=1, **QUIET).fit(module, MadeDataModule(batch_size=12))
        weights.append(torch.cat([parameter.flatten() for parameter in module.net.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])  # the checkpoint's generator would be the same for both


def test_what_is_no_checkpoint_is_one_line() -> None:
    with pytest.raises(UserError, match=r"load_from_checkpoint: no file or run folder nothing\.ckpt"):
        TeacherModule.load_from_checkpoint("nothing.ckpt", net=MLP([36, 3]))
    Path("broken.ckpt").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"load_from_checkpoint: broken.ckpt (is not a checkpoint|cannot be read)"):
        TeacherModule.load_from_checkpoint("broken.ckpt", net=MLP([36, 3]))
