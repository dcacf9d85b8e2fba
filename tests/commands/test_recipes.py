"""`kd-lightning recipes`, in a folder without recipes."""

import json
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
    assert "7 stages" in digits


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


ELSEWHERE = "lightning_logs/theirs/huge/seed_0"
ENSEMBLE = ["lightning_logs/mine/big/seed_2", "weights.pt", "elsewhere/mine/small/seed_0", ELSEWHERE]


def test_an_ensemble_is_taught_by_stages_by_seeds_of_a_stage_and_by_files() -> None:
    Path("mine").mkdir()
    files = {
        "recipe": {"title": "Mine"},
        "big": {"model": "Teacher"},
        "small": {"model": {"teacher_ckpt": "lightning_logs/mine/big/seed_0"}, "stage": {"seeds": 4}},
        "a_student": {
            "model": {"teacher_ckpt": ENSEMBLE},
            "stage": {"variants": {"another": {"model.teacher_ckpt": ["lightning_logs/mine/small/seed_1"]}}},
        },
        "alone": {"model": {"teacher_ckpt": ["weights.pt", "lightning_logs/mine/nowhere/seed_0"]}},
    }
    for name, content in files.items():
        Path(f"mine/{name}.yaml").write_text(yaml.safe_dump(content))
    recipe = find_recipe("mine")
    assert list(recipe.stages) == ["big", "small", "a_student", "alone", "another"]
    assert {name: stage.taught_by for name, stage in recipe.stages.items()} == {
        "big": {},
        "small": {"big": 0},
        "a_student": {"big": 2, "small": 0},
        "alone": {},
        "another": {"small": 1},
    }
    assert [stage.seeds for stage in recipe.stages.values()] == [3, 4, None, None, None]
    assert [stage.name for stage in recipe.choose(["another"])] == ["big", "small", "another"]
    runs = Path("runs/mine")
    (words,) = recipe.stages["a_student"].teacher_words(runs)
    members = ["runs/mine/big/seed_2", "weights.pt", "runs/mine/small/seed_0", ELSEWHERE]
    assert words == f"--model.teacher_ckpt={json.dumps(members)}"
    assert recipe.stages["small"].teacher_words(runs) == ["--model.teacher_ckpt=runs/mine/big/seed_0"]
    assert recipe.stages["alone"].teacher_words(runs) == []


def test_a_listed_stage_is_taught_by_earlier_stages(capsys: pytest.CaptureFixture[str]) -> None:
    stages = {
        "big": {"config": {}},
        "small": {"config": {}, "teacher": "big"},
        "student": {"config": {}, "teacher": ["big/seed_1", "small"]},
    }
    Path("mine.yaml").write_text(yaml.safe_dump({"title": "Mine", "stages": stages}))
    read = find_recipe("mine.yaml").stages
    (words,) = read["student"].teacher_words(Path("runs"))
    assert words == '--model.teacher_ckpt=["runs/big/seed_1", "runs/small/seed_0"]'
    assert [stage.seeds for stage in read.values()] == [2, 1, None]
    for change, message in (
        ({"student": {"config": {}, "teacher": ["big", "smal"]}}, "teacher smal of student found, an earlier stage"),
        ({"big": {"config": {}, "seeds": 1}}, "seeds of big: 1 found, 2 expected, which teach other stages"),
    ):
        Path("mine.yaml").write_text(yaml.safe_dump({"title": "Mine", "stages": {**stages, **change}}))
        assert main(["reproduce", "mine.yaml"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


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


@pytest.mark.parametrize("data", [["--data=configs/cifar100_png.yaml"], ["--data", "cifar100_png"]])
def test_files_of_the_shipped_recipes_are_found_in_any_folder(data: list[str]) -> None:
    words = ["--config=configs/digits/teacher.yaml", *data, "--data.root=mine"]
    config = lightning.parse(["fit", *words])
    assert config["data"]["class_path"] == "kd_lightning.data.ImageFolderDataModule"
    assert config["data"]["init_args"]["batch_size"] == 64  # the stage's
    Path("configs").mkdir()
    Path("configs/cifar100_png.yaml").write_text("class_path: kd_lightning.data.MNISTDataModule")
    own = lightning.parse(["fit", *words])
    assert own["data"]["class_path"] == "kd_lightning.data.MNISTDataModule"


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
        (["copy", "mnist"], "recipes: mnist found, one of cifar100, cifar10_densenet, "),
        (["copy", "digits"], "recipes: configs/digits found, which the copy would overwrite"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("configs/digits").mkdir(parents=True)
    assert main(["recipes", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(Path("configs/digits").iterdir())
