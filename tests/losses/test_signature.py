"""A soft loss of the user's own, from the command line and from Python."""

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from kd_lightning.__main__ import main
from kd_lightning.errors import UserError
from kd_lightning.losses.signature import LossCall
from kd_lightning.models import MLP
from kd_lightning.modules import DistillModule

# Without annotations, as docs/extend.md shows one.


def bare(student_logits, teacher_logits, temperature):  # type: ignore[no-untyped-def]
    return F.mse_loss(student_logits, teacher_logits)


def annotated(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    return F.mse_loss(student_logits, teacher_logits)


def scaled(student_logits: Tensor, teacher_logits: Tensor, temperature: float, factor: float = 1.0) -> Tensor:
    return factor * F.mse_loss(student_logits, teacher_logits)


doubled = partial(scaled, factor=2.0)


class Scaled(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        return self.factor * F.mse_loss(student_logits, teacher_logits)


class Learned(nn.Module):
    """Has a layer to train."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(classes, classes)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        return F.mse_loss(self.layer(student_logits), teacher_logits)


class Called:
    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, student_logits, teacher_logits, temperature):  # type: ignore[no-untyped-def]
        return self.factor * F.mse_loss(student_logits, teacher_logits)


def two(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return F.mse_loss(student_logits, teacher_logits)


def labelled(student_logits: Tensor, teacher_logits: Tensor, temperature: float, label: Tensor) -> Tensor:
    return F.cross_entropy(student_logits / temperature, label)


def without_temperature(student_logits: Tensor, teacher_logits: Tensor, *, index: Tensor, label: Tensor) -> Tensor:
    return (student_logits.sum(dim=1) * (index >= 0) * (label >= 0)).sum()


def one(student_logits: Tensor) -> Tensor:
    return student_logits.sum()


def four(student_logits: Tensor, teacher_logits: Tensor, temperature: float, epoch: int) -> Tensor:
    return student_logits.sum()


def each(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    return (student_logits - teacher_logits).square().mean(dim=1)


def number(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> float:
    return 1.0


def nothing(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> None:
    pass


@pytest.fixture(autouse=True)
def _teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    torch.save(MLP([36, 3]).state_dict(), "teacher.pt")


def fit(*words: str) -> int:
    mlp = '={"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [36, 3]}}'
    base = [
        "fit",
        "--model=kd_lightning.modules.DistillModule",
        f"--model.net{mlp}",
        f"--model.teacher{mlp}",
        "--model.teacher_ckpt=teacher.pt",
        "--data=tests.data.made.MadeDataModule",
        "--data.batch_size=12",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--trainer.logger=lightning.pytorch.loggers.CSVLogger",
        "--trainer.logger.save_dir=logs",
        "--trainer.logger.version=0",
    ]
    return main([*base, *words])


@pytest.mark.parametrize(
    "words",
    [
        ["--model.soft_loss=tests.losses.test_signature.bare"],
        ["--model.soft_loss=tests.losses.test_signature.annotated"],
        ["--model.soft_loss=tests.losses.test_signature.doubled"],
        ["--model.soft_loss=tests.losses.test_signature.Scaled"],
        ["--model.soft_loss=tests.losses.test_signature.Scaled", "--model.soft_loss.factor=2"],
        ['--model.soft_loss={"class_path": "tests.losses.test_signature.Scaled", "init_args": {"factor": 2}}'],
        ['--model.soft_loss={"class_path": "tests.losses.test_signature.Called", "init_args": {"factor": 2}}'],
        ["--model.soft_loss=tests.losses.test_signature.Learned"],
        ["--model.soft_loss=tests.losses.test_signature.two"],
        ["--model.soft_loss=tests.losses.test_signature.labelled"],
        ["--model.soft_loss=tests.losses.test_signature.without_temperature"],
    ],
    ids=[
        "function",
        "annotated",
        "partial",
        "module",
        "option",
        "config",
        "callable",
        "trained module",
        "two",
        "label",
        "index",
    ],
)
def test_any_function_or_module_is_a_soft_loss_in_a_config(words: list[str]) -> None:
    assert fit(*words) == 0
    # The run's own config says the same again.
    assert main(["fit", "--config=logs/lightning_logs/version_0/config.yaml"]) == 0


@pytest.mark.parametrize("loss", [bare, annotated, doubled, Scaled(2.0), Called(2.0), lambda s, t, _: bare(s, t, 1.0)])
def test_any_function_or_module_is_a_soft_loss_in_python(loss: Any) -> None:
    module = DistillModule(MLP([36, 3]), MLP([36, 3]), "teacher.pt", soft_loss=loss)
    assert sum(parameter.requires_grad for parameter in module.parameters()) == 2  # the student's alone


def test_what_a_loss_has_to_train_is_trained_with_the_student_and_is_no_part_of_it() -> None:
    folder = Path("logs/lightning_logs/version_0")
    assert fit("--model.soft_loss=tests.losses.test_signature.Learned", "--trainer.max_epochs=2") == 0
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    names = {name for name in saved["state_dict"] if not name.startswith("net.")}
    assert {"soft_loss.layer.weight", "soft_loss.layer.bias"} <= names
    assert len(saved["optimizer_states"][0]["state"]) == 4
    words = ["validate", f"--config={folder / 'config.yaml'}", f"--ckpt_path={folder}", "--data.val_size=6"]
    assert main(words) == 0
    image = Path("image.png")
    Image.new("L", (6, 6)).save(image)
    assert main(["predict", str(folder), str(image)]) == 0  # by the student alone


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            "one",
            r"one takes \(student_logits: .*\) -> .*, \(student logits, teacher logits, temperature\) to a ",
        ),
        (
            "four",
            r"four takes .* index, student_logits, teacher_logits as further arguments \(missing a .*'epoch'\)",
        ),
        ("each", r"each gives a tensor of shape \(12,\), \(student logits, teacher logits, temperature\) to a scalar"),
        ("number", "number gives float, "),
        ("nothing", "nothing gives NoneType, "),
    ],
)
def test_a_loss_of_another_form_is_one_line(loss: str, message: str, capsys: Any) -> None:
    assert fit(f"--model.soft_loss=tests.losses.test_signature.{loss}") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("kd-lightning: error: ")
    assert re.search(f"soft_loss: {message}", line)


def test_what_is_no_loss_is_refused() -> None:
    for wrong in (Scaled, 3, nn.MSELoss, "mine.loss", one):
        with pytest.raises(
            UserError, match=r"^soft_loss: .*\(student logits, teacher logits, temperature\) to a scalar"
        ):
            LossCall(wrong)
    LossCall(torch.dot)  # does not say what it takes


def test_a_loss_gets_what_it_asks_for_by_name_alone() -> None:
    student, teacher = torch.zeros(2, 3), torch.ones(2, 3)
    values = {"label": torch.tensor([0, 1]), "index": torch.tensor([5, 6]), "student_logits": 7, "teacher_logits": 8}

    def seen(*found: Any) -> Tensor:
        got.append(found)
        return torch.tensor(0.0)

    got: list[Any] = []
    losses = {
        "third": lambda s, t, tau: seen(tau),
        "named": lambda s, t, temperature: seen(temperature),
        "label": lambda s, t, label: seen(label.tolist()),
        "default": lambda s, t, temperature=9.0, index=None: seen(temperature, index.tolist()),
        "all": lambda s, t, *, teacher_logits, student_logits: seen(student_logits, teacher_logits),
        "any": lambda *args: seen(*args[2:]),
        "bound": partial(lambda s, t, temperature: seen(temperature), temperature=5.0),
    }
    for loss in losses.values():
        LossCall(loss)(student, teacher, 2.0, **values)
    assert got == [(2.0,), (2.0,), ([0, 1],), (2.0, [5, 6]), (7, 8), (2.0,), (5.0,)]
    got.clear()
    LossCall(lambda s, t, scale=3.0: seen(scale), "features", of_layers=True)(student, teacher, 2.0, **values)
    LossCall(lambda s, t, temperature: seen(temperature), "features", of_layers=True)(student, teacher, 2.0, **values)
    assert got == [(3.0,), (2.0,)]
    assert LossCall(losses["default"]).asks("index")
    assert not LossCall(losses["third"]).asks("label")
