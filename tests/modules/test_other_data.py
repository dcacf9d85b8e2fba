"""A network on other data than it was trained on: other class names, another order, another normalisation or size."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from kd_lightning.__main__ import main
from kd_lightning.batch import Batch
from kd_lightning.data import ImageSet
from kd_lightning.errors import UserError
from kd_lightning.models import MLP
from kd_lightning.modules import DistillModule, PopulationModule, TeacherModule
from kd_lightning.teachers import EnsembleTeacher
from tests.data.made import MadeDataModule

NAMES, OTHERS = ("ant", "bee", "cow"), ("cow", "ant", "bee")
ORDER = [2, 0, 1]
"""Of `OTHERS`, in `NAMES`."""


class Named(MadeDataModule):
    """The made images, with class names of the caller's choice: a label counts in their order."""

    def __init__(
        self,
        class_names: Sequence[str] = NAMES,
        side: int = 6,
        mean: Sequence[float] = (0.1,),
        std: Sequence[float] = (0.5,),
        **kwargs: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, **kwargs)
        self.class_names = tuple(class_names)
        self.image_shape = (1, side, side)

    def load(self, train: bool) -> ImageSet:
        part = super().load(train)
        if set(self.class_names) != set(NAMES):
            return part
        return part._replace(label=torch.tensor([self.class_names.index(NAMES[label]) for label in part.label]))


QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture(autouse=True)
def _teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two teachers that were trained in one order of the classes, and one in the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    for seed, names in enumerate((NAMES, NAMES, OTHERS)):
        torch.manual_seed(seed)
        trainer = Trainer(max_epochs=0, **QUIET)
        trainer.fit(TeacherModule(MLP([36, 3])), Named(names))
        trainer.save_checkpoint(f"teacher_{seed}.ckpt")


def student(order: Sequence[int] = (0, 1, 2)) -> MLP:
    torch.manual_seed(5)
    network = MLP([36, 3])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter[list(order)])
    return network


def teacher(ensemble: bool) -> dict[str, Any]:
    if not ensemble:
        return {"teacher": MLP([36, 3]), "teacher_ckpt": "teacher_0.ckpt"}
    files = [f"teacher_{number}.ckpt" for number in range(3)]
    return {"teacher": EnsembleTeacher([MLP([36, 3]) for _ in files]), "teacher_ckpt": files}


def trained(names: Sequence[str], order: Sequence[int] = (0, 1, 2), ensemble: bool = False, **options: Any) -> Any:
    module = DistillModule(student(order), **teacher(ensemble), hard_weight=0.5, **options)
    Trainer(max_epochs=3, **QUIET).fit(module, Named(names, seed=0, batch_size=8))
    return module


@pytest.mark.parametrize("ensemble", [False, True], ids=["one teacher", "an ensemble of both orders"])
@pytest.mark.parametrize("options", [{"cache_teacher": False}, {"cache_teacher": True}, {"cache_teacher": "all"}])
def test_in_another_order_of_the_classes_the_student_learns_the_same(options: dict[str, Any], ensemble: bool) -> None:
    expected = trained(NAMES, ensemble=ensemble, **options)
    found = trained(OTHERS, ORDER, ensemble, **options)
    for ours, theirs in zip(found.net.parameters(), expected.net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs[ORDER])
    figures = [
        Trainer(**QUIET).test(module, Named(names), verbose=False)[0]
        for module, names in ((expected, NAMES), (found, OTHERS))
    ]
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)
    assert {"test/agreement", "test/teacher_kl"} < set(figures[0])
    assert len(list(Path().glob("teacher_*.logits-*"))) == (2 if options["cache_teacher"] else 0)
    # The tables are of one order each: read again, they say the same.
    again = trained(OTHERS, ORDER, ensemble, **options)
    torch.testing.assert_close(list(again.net.parameters()), list(found.net.parameters()))


def test_students_trained_at_once_learn_in_their_own_order_too() -> None:
    weights = []
    for names in (NAMES, OTHERS):
        members = [(4.0, 0.9, 0), (1.0, 0.5, 0)]
        module = PopulationModule(lambda: student(), **teacher(False), members=members, hard_weight=0.0)
        Trainer(max_epochs=0, **QUIET).fit(module, Named(names))
        image = torch.rand(4, 1, 6, 6)
        weights.append(module.run_teacher(image))
        assert torch.equal(weights[-1], module.teacher.network(image)[:, ORDER if names == OTHERS else [0, 1, 2]])


def test_a_module_that_meets_data_in_both_orders_takes_each_as_it_is(capfd: Any) -> None:
    module = trained(OTHERS, cache_teacher=False)
    image, label = torch.rand(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64)
    logits = module.teacher.network(image)
    assert torch.equal(module.teacher_outputs(Batch(image, label, label, label))[0], logits[:, ORDER])
    Trainer(max_epochs=1, **QUIET).fit(module, Named(NAMES))
    assert torch.equal(module.teacher_outputs(Batch(image, label, label, label))[0], logits)


def words(command: str, module: str, *more: str) -> list[str]:
    run = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs", "version": "seed_0"}}
    mlp = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [36, 3]}}
    taught = {"teacher": mlp, "teacher_ckpt": "teacher_0.ckpt"} if module == "DistillModule" else {}
    config = {
        "seed_everything": 0,
        "model": {"class_path": f"kd_lightning.modules.{module}", "init_args": {"net": mlp, **taught}},
        "data": {"class_path": f"{__name__}.Named"},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": run, "enable_model_summary": False},
    }
    Path("config.yaml").write_text(json.dumps(config))
    return [command, "--config=config.yaml", *more]


OTHER = {
    "names": ("--data.class_names=[ant,bee,dog]", "class_names [cow] (the data has [dog])"),
    "mean": ("--data.mean=[0.6]", "mean [0.1] (the data has [0.6])"),
    "std": ("--data.std=[0.1]", "std [0.5] (the data has [0.1])"),
}


@pytest.mark.parametrize(("option", "said"), OTHER.values(), ids=OTHER)
def test_a_teacher_of_other_data_is_refused_with_both_sides_named(option: str, said: str, capsys: Any) -> None:
    assert main(words("fit", "DistillModule", option)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"kd-lightning: error: teacher_ckpt: teacher_0.ckpt was trained with {said}; make the data")


def test_a_teacher_of_other_images_is_refused() -> None:
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(6), MLP([36, 3]))
    trainer = Trainer(max_epochs=0, **QUIET)
    trainer.fit(TeacherModule(flat), Named())
    trainer.save_checkpoint("any_size.ckpt")
    module = DistillModule(MLP([49, 3]), flat, "any_size.ckpt")
    with pytest.raises(UserError, match=r"image_shape \[1, 6, 6\] \(the data has \[1, 7, 7\]\)"):
        Trainer(max_epochs=1, **QUIET).fit(module, Seven())


class Seven(Named):
    def __init__(self) -> None:
        super().__init__(side=7)


@pytest.mark.parametrize(
    ("module", "commands"), [("TeacherModule", ["test"]), ("DistillModule", ["validate", "predict"])]
)
def test_a_run_of_other_data_is_tested_with_a_warning_and_neither_gone_on_with_nor_exported(
    module: str, commands: list[str], capsys: Any, recwarn: pytest.WarningsRecorder
) -> None:
    assert main(words("fit", module)) == 0
    run, (option, said) = "logs/lightning_logs/seed_0", OTHER["mean"]
    for command in commands:
        recwarn.clear()
        more = [f"--ckpt_path={run}", "--data.val_size=8"]
        assert main(words(command, module, *more)) == 0
        assert [str(w.message) for w in recwarn if "was trained with" in str(w.message)] == []
        assert main(words(command, module, option, *more)) == 0
        found = [str(w.message) for w in recwarn if "was trained with" in str(w.message)]
        assert found[-1].startswith(f"ckpt_path: {run}/checkpoints/")
        assert said in found[-1]
        assert len(found) == (1 if module == "TeacherModule" else 2)
    assert main(words("fit", module, option, f"--ckpt_path={run}", "--trainer.max_epochs=2")) == 2
    assert said in capsys.readouterr().err
    words("test", module)
    Path("other.yaml").write_text(Path("config.yaml").read_text().replace("Named", "OtherMean"))
    assert main(["export", run, "--config=other.yaml", "--format=torch"]) == 2
    assert said in capsys.readouterr().err


class OtherMean(Named):
    def __init__(self) -> None:
        super().__init__(mean=[0.6])


@pytest.mark.parametrize("command", ["test", "fit"])
def test_a_run_is_not_used_where_its_outputs_would_be_other_classes(command: str, capsys: Any) -> None:
    assert main(words("fit", "TeacherModule")) == 0
    option = "--data.class_names=[cow,ant,bee]"
    assert main(words(command, "TeacherModule", option, "--ckpt_path=logs/lightning_logs/seed_0")) == 2
    said = "was trained with the classes [ant, bee, cow], in this order; the data has [cow, ant, bee]"
    assert said in capsys.readouterr().err
