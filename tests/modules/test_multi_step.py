"""Several steps in one call leave what the same steps leave one by one."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kd_lightning.__main__ import main
from kd_lightning.batch import Batch, epoch_batch_sizes
from kd_lightning.cli import lightning
from kd_lightning.models import MLP
from kd_lightning.modules import multi_step as steps

SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
BY_STEP = {"class_path": "kd_lightning.schedules.CosineDecay", "init_args": {"warmup": 0.2}}
BY_EPOCH = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.1}}
ON_A_FIGURE = {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau", "init_args": {"monitor": "train/loss"}}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def mlp(*widths: int, dropout: float = 0.2) -> dict[str, Any]:
    return {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": widths, "hidden_dropout": dropout}}


def config(module: str = "TeacherModule", **init_args: Any) -> str:
    """Two epochs of 201 digits in batches of 20: the last of a single image."""
    model = {"class_path": f"kd_lightning.modules.{module}", "init_args": {"net": mlp(64, 16, 10), **init_args}}
    views = {"class_path": "kd_lightning.data.Shift"}
    data = {"train_size": 201, "batch_size": 20, "views": views}
    trainer = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    whole = {
        "seed_everything": 3,
        "threads": 1,
        "model": model,
        "data": {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": data},
        "trainer": trainer,
    }
    Path("config.yaml").write_text(yaml.safe_dump(whole))
    return "--config=config.yaml"


def assert_same(found: Any, expected: Any) -> None:
    """Of two CLIs after their training: the weights, the steps and what was logged, to the last bit."""
    kept = expected.model.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in found.model.state_dict().items())
    assert found.trainer.global_step == expected.trainer.global_step
    assert found.trainer.callback_metrics == expected.trainer.callback_metrics


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, []),
        ({"optimizer": SGD, "lr_scheduler": BY_STEP}, []),
        ({"optimizer": SGD, "lr_scheduler": BY_EPOCH}, ["--trainer.precision=bf16-mixed"]),
        ({}, ["--data.val_size=30"]),
    ],
    ids=["adam", "by step", "by epoch", "validated"],
)
def test_steps_at_once_are_the_steps_one_by_one(options: dict[str, Any], words: list[str]) -> None:
    one_by_one = lightning.main(["fit", config(**options), *words])
    images = len(one_by_one.datamodule.train_positions)
    for at_once in (4, 10):
        together = lightning.main(["fit", config(**options, steps_at_once=at_once), *words])
        assert_same(together, one_by_one)
        calls = together.trainer.fit_loop.epoch_loop.batch_progress.current.completed
        assert calls == -(-(images - 1) // (20 * at_once))  # the last image is left over


def test_a_student_is_distilled_the_same() -> None:
    torch.save(MLP([64, 32, 10]).state_dict(), "teacher.pt")
    options = {"teacher": mlp(64, 32, 10), "teacher_ckpt": "teacher.pt"}
    one_by_one = lightning.main(["fit", config("DistillModule", **options)])
    Path("teacher.pt").touch()
    for table in Path().glob("teacher.pt.answers*"):
        table.unlink()
    assert_same(lightning.main(["fit", config("DistillModule", **options, steps_at_once=4)]), one_by_one)


@pytest.mark.parametrize(
    "word",
    ["max_steps=7", "limit_train_batches=3", "gradient_clip_val=0.1", "accumulate_grad_batches=2"],
)
def test_what_counts_or_changes_single_steps_gets_single_steps(word: str) -> None:
    one_by_one = lightning.main(["fit", config(), f"--trainer.{word}"])
    assert_same(lightning.main(["fit", config(steps_at_once=4), f"--trainer.{word}"]), one_by_one)


def test_a_run_is_resumed_as_if_it_had_not_stopped() -> None:
    words = ["--model.net.hidden_dropout=0"]
    whole = lightning.main(["fit", config(steps_at_once=4), *words])
    half = lightning.main(["fit", config(steps_at_once=4), *words, "--trainer.max_epochs=1"])
    half.trainer.save_checkpoint("half.ckpt")
    assert_same(lightning.main(["fit", config(steps_at_once=4), *words, "--ckpt_path=half.ckpt"]), whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps_at_once": 0}, "steps_at_once: 0 found, at least 1 expected"),
        (
            {"steps_at_once": 4, "lr_scheduler": ON_A_FIGURE},
            "steps_at_once: 4 found, 1 expected with ReduceLROnPlateau",
        ),
    ],
)
def test_what_cannot_be_is_one_line(options: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", config(**options)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"kd-lightning: error: {message}"


@pytest.mark.parametrize(
    ("images", "size", "expected"),
    [(8, 4, [4, 4]), (7, 4, [4, 3]), (9, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1]), (2, 1, [1, 1])],
)
def test_a_single_image_left_over_is_no_batch(images: int, size: int, expected: list[int]) -> None:
    assert epoch_batch_sizes(images, size) == expected
    tensor = torch.arange(images)
    parts = steps.split(Batch(tensor, tensor, tensor, tensor), size)
    assert [len(part.label) for part in parts] == expected
    assert torch.equal(torch.cat([part.index for part in parts]), tensor[: sum(expected)])
