"""Functions that make networks, as public code has them, by the words a user types."""

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.errors import UserError

if TYPE_CHECKING:
    from nowhere import Unknown

DATA = ["--data=kd_lightning.data.DigitsDataModule", "--trainer.logger=false", "--trainer.accelerator=cpu"]
TEACHER = ["--model=kd_lightning.modules.TeacherModule", *DATA]


class Net(nn.Module):
    """Without annotations, as most public code."""

    def __init__(self, width=8, num_classes=7):
        super().__init__()
        self.width = width
        self.fc = nn.Linear(64, num_classes)

    def forward(self, image):
        return self.fc(image.flatten(1))

    @classmethod
    def of_class(cls, width=4):
        return cls(width, 10)

    @staticmethod
    def static(width=4):
        return Net(width, 10)

    def of_object(self):
        return self


def wrapped(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


def plain():
    return Net(4, 10)


def needs_width(width):
    return Net(width, 10)


def with_classes(width=4, num_classes=7):
    return Net(width, num_classes)


def hands_on(width=4, **kwargs):
    return Net(width, **kwargs)


def looks_up(name="net", **kwargs):
    """As timm.create_model does."""
    return {"net": Net, "narrow": functools.partial(Net, 4), "fixed": lambda width: Net(width, 10)}[name](**kwargs)


def merges(pretrained=False, **kwargs):
    """As timm.models.resnet18 does."""
    return Net(**dict({"width": 4}, **kwargs))


def ends(**kwargs):
    return Net(4, 10)


def refuses(width=4, **kwargs):
    if kwargs:
        raise TypeError(f"unknown: {kwargs}")
    return Net(width, 10)


def by_name() -> "Net":
    return Net(4, 10)


def by_unknown_name() -> "Unknown":
    return Net(4, 10)


def anything() -> Any:
    return Net(4, 10)


def optional() -> nn.Module | None:
    return Net(4, 10)


@wrapped
def decorated(width=4):
    return Net(width, 10)


@functools.cache
def cached(width=4):
    return Net(width, 10)


@torch.no_grad()
def without_gradients(width=4):
    return Net(width, 10)


def a_number() -> int:
    return 5


def a_number_unsaid():
    return 5


def fails():
    raise RuntimeError("of two\nlines")


async def later():
    return Net()


a_lambda = lambda width=4: Net(width, 10)  # noqa: E731
bound = functools.partial(Net, 4)
made = Net()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def net_of(*words: str) -> Any:
    name, *options = words
    options = [f"--model.net.{option}" for option in options]
    path = name if name.startswith(("sys.", "functools.")) else f"{__name__}.{name}"
    return lightning.build(["fit", *TEACHER, f"--model.net={path}", *options]).model.net


@pytest.mark.parametrize(
    "words",
    [
        ["plain"],
        ["needs_width", "width=4"],
        ["with_classes"],
        ["hands_on"],
        ["looks_up", "width=4"],
        ["looks_up", "name=narrow"],
        ["looks_up", "name=fixed", "init_args.width=4"],
        ["looks_up", "dict_kwargs.width=4"],
        ["merges"],
        ["ends"],
        ["refuses"],
        ["by_name"],
        ["by_unknown_name"],
        ["anything"],
        ["optional"],
        ["decorated"],
        ["cached"],
        ["without_gradients"],
        ["a_lambda"],
        ["Net.of_class"],
        ["Net.of_class", "width=4"],
        ["Net.static"],
        ["Net", "width=4"],
    ],
    ids=" ".join,
)
def test_a_function_makes_a_network_annotated_or_not_with_as_many_classes_as_the_data(words: list[str]) -> None:
    net = net_of(*words)
    assert (net.width, net.fc.out_features) == (4, 10)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("looks_up", "num_classes=4"),
        ("looks_up", "dict_kwargs.num_classes=4"),
        ("merges", "init_args.num_classes=4"),
        ("hands_on", "num_classes=4"),
    ],
)
def test_a_number_of_classes_that_was_given_stands(name: str, option: str) -> None:
    assert net_of(name, option).fc.out_features == 4


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["a_number"], "a_number returns int by its annotation: a class of networks (nn.Module) or a function that"),
        (["a_number_unsaid"], "net: int found, a network (nn.Module) expected"),
        (["fails"], "of two lines"),
        (["later"], "later is a coroutine or a generator"),
        (["bound"], "is a functools.partial, whose options are unknown"),
        (["made"], "Net found, an instance; a class or a function that makes it expected"),
        (["Net.of_object"], "Net.of_object is a method of an object"),
        (["looks_up", "nonsense=3"], "unexpected keyword argument 'nonsense'"),
        (["hands_on", "nonsense=3"], "Option 'nonsense' is not accepted"),
        (["sys.exit"], "is neither a class nor a function in Python"),
        (["functools.singledispatch"], "is a function of Python's standard library"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_network_is_one_line(words: list[str], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        net_of(*words)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_teacher_and_members_of_an_ensemble_are_made_so_too_and_the_saved_config_makes_them_again() -> None:
    for member in range(3):
        torch.save(Net(4, 10).state_dict(), f"{member}.pt")
    here = __name__
    fixed = f"{{class_path: {here}.looks_up, init_args: {{name: fixed, width: 4}}}}"
    given = f"{{class_path: {here}.merges, init_args: {{num_classes: 10}}}}"
    Path("mine.yaml").write_text(f"""
model:
  class_path: kd_lightning.modules.DistillModule
  init_args:
    net: {{class_path: {here}.looks_up}}
    teacher:
      class_path: kd_lightning.teachers.EnsembleTeacher
      init_args: {{members: [{here}.plain, {fixed}, {given}]}}
    teacher_ckpt: [0.pt, 1.pt, 2.pt]
data: kd_lightning.data.DigitsDataModule
trainer: {{accelerator: cpu, max_steps: 1}}
""")
    assert main(["fit", "--config=mine.yaml"]) == 0
    run = Path("lightning_logs/version_0")
    again = lightning.main(["test", f"--config={run / 'config.yaml'}", f"--ckpt_path={run}"])
    assert [member.fc.out_features for member in again.model.teacher.network.members] == [10, 10, 10]
    assert again.model.net.fc.out_features == 10


def test_timm_s_networks_get_the_data_s_classes_and_keep_those_that_were_given() -> None:
    pytest.importorskip("timm")

    def made(*words: str) -> nn.Module:
        return lightning.build(["fit", *TEACHER, *words]).model.net

    create = ["--model.net=timm.create_model", "--model.net.model_name=resnet18"]
    assert made(*create).fc.out_features == 10
    assert made(*create, "--model.net.num_classes=4", "--model.net.in_chans=1").conv1.in_channels == 1
    assert made("--model.net=timm.models.resnet18", "--model.net.init_args.num_classes=4").fc.out_features == 4
