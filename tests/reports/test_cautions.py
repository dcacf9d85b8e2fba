"""What a reader of a comparison is told of its figures."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd_lightning.__main__ import main
from kd_lightning.reports.column import decimals, mean_and_spread
from kd_lightning.reports.columns import accuracies_in_words
from kd_lightning.reports.results import with_few_images
from kd_lightning.reports.rows import Row, RunFigures
from kd_lightning.reports.runs import MAX_BYTES
from tests.commands.made import write_run

SMALL = {"name": "Small", "parameters": 10, "mebibytes": 0.1}


@pytest.fixture(autouse=True)
def _recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs/made").mkdir(parents=True)
    stages = {
        "teacher": {"config": "a.yaml"},
        "baseline": {"config": "b.yaml"},
        "distill": {"config": "c.yaml", "teacher": "teacher"},
    }
    Path("configs/made/recipe.yaml").write_text(yaml.safe_dump({"title": "Made", "stages": stages}, sort_keys=False))


def write(stage: str, errors: int, images: int = 500, seed: int = 0, **parts: Any) -> None:
    network = {} if stage == "teacher" else {"network": SMALL}
    write_run(Path(), stage, seed, test={"errors": errors, "images": images}, **network, **parts)


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Those on the terminal, which the report and the JSON hold as well."""
    assert main(["compare", "made"]) == 0
    found = [line.removeprefix("warning: ") for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    folder = Path("lightning_logs/compare")
    assert json.loads((folder / "comparison.json").read_text())["warnings"] == found
    report = (folder / "report.html").read_text()
    assert report.count("<strong>Warning:</strong>") == len(found)
    # A record of a comparison has them, too.
    assert main(["compare", str(folder / "comparison.json"), "--format", "csv"]) == 0
    assert capsys.readouterr().err == "".join(f"warning: {line}\n" for line in found)
    return found


def test_a_teacher_far_below_the_baseline_of_its_student_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write("teacher", 483)
    write("baseline", 227)
    write("distill", 490)
    (line,) = warnings(capsys)
    assert line.startswith("teacher: 3.4% correct, far below baseline (54.6%), which is the network of distill without")


@pytest.mark.parametrize(("teacher", "images"), [(64, 10_000), (10, 500), (240, 500), (235, 500)])
def test_a_teacher_that_is_better_or_as_good_is_not(
    teacher: int, images: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write("teacher", teacher, images)
    write("baseline", 58 if images > 500 else 227, images)
    write("distill", 60, images)
    assert warnings(capsys) == []


def test_runs_of_no_recipe_have_the_teacher_of_their_config(capsys: pytest.CaptureFixture[str]) -> None:
    Path("configs/made/recipe.yaml").unlink()
    write("big", 483)
    write("alone", 227)
    config = {"model": {"init_args": {"teacher_ckpt": "made/big/seed_0/checkpoints/best.ckpt"}}, "trainer": {}}
    write("taught", 490, config=config, measured_on={"checkpoint": "last"})
    (line,) = warnings(capsys)
    assert line.startswith("big: 3.4% correct, far below alone (54.6%)")


def test_a_student_of_another_teacher_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write("teacher", 10, measured_on={"weights": "new"})
    fit = {"seconds": 1.0, "epochs": 1, "steps": 1, "seed": 0}
    write("distill", 20, fit={**fit, "teacher": "old"})
    (line,) = warnings(capsys)
    told = "its teacher had other weights than teacher of this table (kd-lightning reproduce made trains it again)"
    assert line == f"distill: {told}"
    write("distill", 20, fit={**fit, "teacher": "new"})
    assert warnings(capsys) == []


def test_figures_of_other_versions_of_the_code_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    write("teacher", 10, measured_on={"code": "0.1.0-1"})
    write("baseline", 10, measured_on={"code": "0.1.0-2"})
    assert warnings(capsys) == ["measured by versions of the code that give other figures: 0.1.0-1, 0.1.0-2"]


def test_a_part_of_the_test_set_is_named_where_all_runs_measured_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    write("baseline", 10, 120, measured_on={"images": 120, "of": 500})
    assert warnings(capsys) == ["baseline: 120 of 500 test images measured"]
    assert "120 of 500" in Path("lightning_logs/compare/report.html").read_text()
    write("teacher", 10, measured_on={"images": 500, "of": 500})
    assert warnings(capsys) == []
    capsys.readouterr()
    assert main(["compare", "made"]) == 0
    assert "left out: made/baseline/seed_0 (its test measured 120 of 500 images;" in capsys.readouterr().err


def test_figures_of_validation_images_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    write("baseline", 10, measured_on={"images": 500, "of": 500, "part": "val"})
    assert warnings(capsys) == ["measured on the validation images, as there is no test part: baseline"]


def test_classes_with_too_few_test_images_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    write("baseline", 10, class_names=["cat", "dog", "emu"], class_images=[90, 3, 0])
    assert warnings(capsys) == ["no image of emu; fewer than 10 images of dog among the test images"]
    assert with_few_images([0] * 12, []) == "no image of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    assert with_few_images([10, 11], ["a", "b"]) == ""


def test_figures_have_the_decimals_that_the_images_bear(capsys: pytest.CaptureFixture[str]) -> None:
    assert [decimals(n) for n in (3, 93, 100, 101, 360, 1000, 10_000, 1_000_000)] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert decimals(93, runs=3) == 1
    assert mean_and_spread([90.3226], 0) == "90"
    assert mean_and_spread([1_234_567]) == "1234567"
    write("baseline", 9, 93)
    assert main(["compare", "made"]) == 0
    assert "90.3226" not in capsys.readouterr().out
    report = Path("lightning_logs/compare/report.html").read_text()
    assert "90.3" not in report
    assert "0.903" not in report
    assert main(["compare", "made", "--format", "csv"]) == 0
    assert ",9,93,,0.903226," in capsys.readouterr().out  # raw


def test_a_row_of_several_runs_has_decimals_of_all_their_images() -> None:
    runs = [RunFigures(seed, errors, 1.0, None, None, {}) for seed, errors in enumerate([10, 9])]
    row = Row("a", "accuracy", None, runs, 100, None, 1, 1.0, None, "cpu", 1)
    assert accuracies_in_words(row) == "90.5 ± 0.7"


def test_a_file_too_large_to_be_compared_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write("baseline", 9)
    write("distill", 9)
    file = Path("made/distill/seed_0/results.json")
    with file.open("a") as content:
        content.write(" " * MAX_BYTES)
    assert main(["compare", "made"]) == 0
    assert "left out: made/distill/seed_0 (results.json of 8.0 MiB, at most 8 are read)" in capsys.readouterr().err
    record = Path("record.json")
    record.write_text(" " * (MAX_BYTES + 1))
    assert main(["compare", str(record)]) == 2
    assert "record.json: not a comparison (8.0 MiB, at most 8 are read)" in capsys.readouterr().err
    record.write_text("[" * 100_000)
    file.write_text("[" * 100_000)
    assert main(["compare", str(record)]) == 2
    assert main(["compare", "made"]) == 0


def test_a_config_too_long_to_be_shown_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    config = {"model": {"init_args": {f"option_{i}": 0 for i in range(10_000)}}, "trainer": {}, "data": {}}
    write("baseline", 9, config=config)
    assert main(["compare", "made"]) == 0
    assert "at most 100,000 are shown" in Path("lightning_logs/compare/report.html").read_text()
