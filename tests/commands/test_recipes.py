"""`kd-lightning recipes`, in a folder without recipes."""

from pathlib import Path

import pytest
import yaml

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.recipe import SHIPPED, find_recipe, recipe_names


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_each_recipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names(SHIPPED)
    (digits,) = [line for line in lines if line.startswith("digits ")]
    assert digits.endswith(" bundled with scikit-learn")
    assert "3 stages" in digits


def test_a_copy_takes_the_place_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "copy", "digits"]) == 0
    assert "next: kd-lightning reproduce digits" in capsys.readouterr().out
    copied = Path("configs/digits")
    assert {file.name for file in copied.iterdir()} == {file.name for file in (SHIPPED / "digits").iterdir()}
    common = yaml.safe_load((copied / "common.yaml").read_text())
    common["trainer"]["max_epochs"] = 1
    (copied / "common.yaml").write_text(yaml.safe_dump(common))
    assert lightning.parse(["fit", "--config=digits/distill"])["trainer"]["max_epochs"] == 1
    assert main(["recipes"]) == 0
    assert "bundled with scikit-learn (configs/digits)" in capsys.readouterr().out


def test_stages_are_read_from_the_files_of_a_recipe_folder() -> None:
    Path("mine").mkdir()
    files = {
        "recipe": {"title": "Mine", "data": "here"},
        "common": {"model": {"class_path": "Distill", "init_args": {"teacher_ckpt": "lightning_logs/mine/big/seed_0"}}},
        "big": {"model": {"class_path": "Teacher", "init_args": {"teacher_ckpt": None}}},
        "alone": {"model": "Teacher", "stage": {"published": 70.5, "seeds": 2}},
        "small_T4": {"stage": {"variants": {"small_T2": {"model.temperature": 2}, "small_T10": {}}}},
        "tiny": {"model": {"teacher_ckpt": "elsewhere/mine/small_T4/seed_3"}, "stage": {"main": False}},
        "stranger": {"model": {"teacher_ckpt": "weights.pt"}},
        "data": {"class_path": "Data"},
    }
    for name, content in files.items():
        Path(f"mine/{name}.yaml").write_text(yaml.safe_dump(content))
    stages = find_recipe("mine").stages
    assert list(stages) == ["big", "small_T4", "alone", "stranger", "small_T2", "small_T10", "tiny"]
    assert [stage.teacher for stage in stages.values()] == [None, "big", None, None, "big", "big", "small_T4"]
    assert [stage.seeds for stage in stages.values()] == [1, 1, 2, None, None, None, None]
    assert [name for name, stage in stages.items() if not stage.main] == ["small_T2", "small_T10", "tiny"]
    assert stages["small_T2"].option_words == ["--model.temperature=2"]
    assert stages["alone"].published == 70.5


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"stage": {"publised": 1}}, "mine/big.yaml: stage: publised found, some of published, corrected, "),
        ({"model": {"teacher_ckpt": "lightning_logs/mine/big/seed_0"}}, "mine/recipe.yaml: not a recipe (('nodes are"),
        ({"class_path": "Data"}, "mine/recipe.yaml: no stage found, a config file for each training expected beside"),
        (["big"], "mine/big.yaml: ['big'] found, options by name expected"),
    ],
)
def test_an_invalid_stage_file_is_named(stage: object, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/recipe.yaml").write_text("title: Mine")
    Path("mine/big.yaml").write_text(yaml.safe_dump(stage))
    assert main(["reproduce", "mine"]) == 2
    assert message in capsys.readouterr().err


def test_a_local_file_comes_before_a_stage_of_that_name() -> None:
    Path("digits").mkdir()
    shipped = yaml.safe_dump(lightning.parse(["fit", "--config=digits/teacher", "--trainer.max_epochs=3"]))
    Path("digits/teacher").write_text(shipped)
    assert lightning.parse(["fit", "--config=digits/teacher"])["trainer"]["max_epochs"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["copy"], "recipes: copy found, nothing or copy RECIPE expected"),
        (["digits"], "recipes: digits found, nothing or copy RECIPE expected"),
        (["copy", "mnist"], "recipes: mnist found, one of cifar10_densenet, "),
        (["copy", "digits"], "recipes: configs/digits found, which the copy would overwrite"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("configs/digits").mkdir(parents=True)
    assert main(["recipes", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(Path("configs/digits").iterdir())
