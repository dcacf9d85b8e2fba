"""Students on random views and mixed images, and the options of the hard loss, by the command line."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from kd_lightning.__main__ import main
from kd_lightning.models import MLP
from tests.cli.test_choices import refused

MODULES, DATA = "kd_lightning.modules", "kd_lightning.data"
NET = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 16, 10]}}
VIEWS = {
    "class_path": f"{DATA}.RandomViews",
    "init_args": {"count": 2, "transforms": [{"class_path": "RandomCrop", "init_args": {"size": 8, "padding": 1}}]},
}


@pytest.fixture(autouse=True)
def _teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    torch.manual_seed(1)
    torch.save(MLP([64, 16, 10]).state_dict(), "teacher.pt")


def write(module: str = "DistillModule", **data: object) -> str:
    teacher = {"teacher": NET, "teacher_ckpt": "teacher.pt"} if module == "DistillModule" else {}
    config = {
        "seed_everything": 0,
        "threads": 1,
        "model": {"class_path": f"{MODULES}.{module}", "init_args": {"net": NET, **teacher}},
        "data": {"class_path": f"{DATA}.DigitsDataModule", "init_args": {"train_size": 60, "batch_size": 20, **data}},
        "trainer": {"max_epochs": 2, "enable_model_summary": False, "accelerator": "cpu"},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    return "--config=config.yaml"


def weights(*words: str) -> dict[str, torch.Tensor]:
    """Train, and return the final weights."""
    for run in Path().glob("lightning_logs/*"):
        run.rename(f"before_{len(list(Path().glob('before_*')))}")
    assert main(["fit", *words]) == 0
    return torch.load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=0, atol=1e-6) for name in one)


@pytest.mark.parametrize(
    "data",
    [
        {"views": VIEWS},
        {"mix": {"class_path": f"{DATA}.MixUp", "init_args": {"count": 2}}},
        {"views": VIEWS, "mix": {"class_path": f"{DATA}.CutMix", "init_args": {"count": 2, "hard_loss": "unmixed"}}},
    ],
    ids=["views", "mixup", "views and cutmix"],
)
def test_cached_and_live_students_have_the_same_final_weights(data: dict) -> None:
    config = write(**data)
    cached = weights(config, "--model.cache_teacher=all")
    assert list(Path().glob("teacher.pt.logits-*"))
    assert same(cached, weights(config, "--model.cache_teacher=false"))
    assert same(cached, weights(config, "--data.num_workers=1", "--model.steps_at_once=3"))
    assert not same(cached, weights(write(), "--model.cache_teacher=false"))


@pytest.mark.parametrize(
    "data",
    [{"mix": f"{DATA}.MixUp"}, {"mix": f"{DATA}.CutMix"}, {"views": VIEWS}],
    ids=["mixup", "cutmix", "views"],
)
def test_views_that_are_new_in_every_epoch_have_no_cache(
    data: dict, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    config, option = write(**data), f"--data.{next(iter(data))}.count=null"
    message = "cache_teacher: augmented views are new in every epoch (count: null); false expected"
    assert message in refused(capsys, "fit", config, option, "--model.cache_teacher=true")
    assert main(["fit", config, option]) == 0
    assert "the teacher's logits are not cached: augmented views are new in every epoch (count: null)" in caplog.text
    assert not list(Path().glob("teacher.pt.logits-*"))


@pytest.mark.parametrize("count", [2, None])
def test_a_training_stopped_within_an_epoch_goes_on_with_the_same_views_and_mixes(count: int | None) -> None:
    config = write(views=VIEWS, mix={"class_path": f"{DATA}.MixUp", "init_args": {"count": count}}, num_workers=1)
    whole = weights(config)
    weights(config, "--trainer.max_steps=4")
    Path("lightning_logs/version_0").rename("stopped")
    resumed = weights(config, "--ckpt_path=stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_options_of_the_hard_loss_reach_the_training() -> None:
    config = write("TeacherModule")
    runs = [
        weights(config, *options)
        for options in (
            [],
            ["--model.label_smoothing=0.1"],
            ["--model.class_weights=balanced"],
            ["--model.class_weights=[1,1,1,1,1,1,1,1,1,9]"],
            [f"--data.mix={DATA}.MixUp"],
        )
    ]
    assert not any(same(one, other) for place, one in enumerate(runs) for other in runs[:place])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--model.label_smoothing=1"], "label_smoothing: 1.0 found, a number in [0, 1) expected"),
        (["--model.class_weights=[1,2]"], "class_weights: 2 found, 10 expected (the classes)"),
        (["--model.class_weights=[-1]"], "class_weights: [-1.0] found, numbers of at least 0 expected, one above 0"),
        (
            [f"--data.mix={DATA}.MixUp", "--data.mix.hard_loss=unmixed"],
            "mix: hard_loss unmixed found, mixed expected: no other loss is on the mixed images",
        ),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, "fit", write("TeacherModule"), *words) == f"kd-lightning: error: {problem}"
