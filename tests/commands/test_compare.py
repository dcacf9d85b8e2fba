from pathlib import Path

import pytest
from rich.console import Console

from kd_lightning.commands.compare import cells, collect, terminal_table, write_report
from kd_lightning.commands.recipe import Recipe, Stage
from kd_lightning.commands.terminal import FILE_WIDTH
from kd_lightning.results import update_results

NAMES = ("teacher", "distill_feature_map", "distill_without_3")


def made_recipe() -> Recipe:
    corrected = {"as_trained": "206 (133 on threes)", "test_optimal": "109 (14 on threes)"}
    stages = {
        "teacher": Stage("teacher", Path("teacher.yaml"), published=67),
        "distill_feature_map": Stage("distill_feature_map", Path("a.yaml"), "74 (best of 5 seeds)", teacher="teacher"),
        "distill_without_3": Stage("distill_without_3", Path("b.yaml"), corrected=corrected, teacher="teacher"),
    }
    return Recipe("made", stages, "Made", "nowhere", "errors", 2)


def write_run(runs: Path, stage: str, seed: int, **parts: object) -> None:
    parts = {
        "fit": {"seconds": 1234.5},
        "test": {"errors": 80 + seed, "images": 10000},
        "network": {"name": "MLP", "parameters": 2_395_210, "mebibytes": 9.137},
        "device": "cpu",
        **parts,
    }
    update_results(runs / "made" / stage / f"seed_{seed}", **parts)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, (one, many, agreement) in enumerate([(0.1, 10.0, 0.985), (0.3, 90.0, 0.987), (0.2, 30.0, 0.989)]):
        latency = {"batch_1": one, "batch_128": many}
        write_run(tmp_path, "teacher", seed, latency=latency, threads=1)
        test = {"errors": 3044 + 200 * seed, "images": 10000, "agreement": agreement}
        write_run(tmp_path, "distill_feature_map", seed, latency={"batch_128": many}, threads=1, test=test)
        rules = ("as_trained", "frequency", "test_optimal")
        bias_correction = {rule: {"errors": 704, "class_errors": 126 + seed} for rule in rules}
        write_run(
            tmp_path, "distill_without_3", seed, latency=latency, threads=1, test=test, bias_correction=bias_correction
        )
    return tmp_path


def test_latency_is_the_median_over_seeds_and_agreement_the_mean_in_percent(runs: Path) -> None:
    teacher, distilled, *_ = cells(collect(made_recipe(), runs), "errors")
    assert (teacher["ms, batch 1"], teacher["ms, batch 128"], teacher["agrees with teacher"]) == ("0.200", "30.000", "")
    assert (distilled["ms, batch 1"], distilled["ms, batch 128"]) == ("", "30.000")
    assert distilled["agrees with teacher"] == "98.70 ± 0.20%"


def test_agreement_is_that_of_the_student_as_trained(runs: Path) -> None:
    rules = cells(collect(made_recipe(), runs), "errors")[2:]
    assert [row["agrees with teacher"] for row in rules] == ["98.70 ± 0.20%", "", ""]
    assert [row["ms, batch 1"] for row in rules] == 3 * ["0.200"]


def test_runs_from_before_latency_was_measured_are_compared_without_it(tmp_path: Path) -> None:
    write_run(tmp_path, "teacher", 0)
    rows = collect(made_recipe(), tmp_path)
    assert set(cells(rows, "errors")[0]) == {"stage", "published", "ours", "n", "parameters", "MiB", "seconds"}
    assert " ms:" not in write_report(made_recipe(), rows, tmp_path, "command").read_text()
    write_run(tmp_path, "teacher", 1, latency={"batch_1": 0.5, "batch_128": 7.0}, threads=1)
    (row,) = cells(collect(made_recipe(), tmp_path), "errors")
    assert (row["n"], row["ms, batch 1"], row["ms, batch 128"]) == ("2", "0.500", "7.000")


def test_the_report_says_on_which_device_the_milliseconds_were_taken(runs: Path) -> None:
    report = write_report(made_recipe(), collect(made_recipe(), runs), runs, "command").read_text()
    assert "ms: one forward pass of a batch, median (cpu, CPU threads: 1)." in report
    assert "| ms, batch 1 | ms, batch 128 |" in report


def test_names_and_figures_stay_whole_in_a_file(runs: Path) -> None:
    console = Console(width=FILE_WIDTH, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(terminal_table(made_recipe(), collect(made_recipe(), runs)))
    text = capture.get()
    for whole in (*NAMES, "74 (best of 5 seeds)", "3244.0 ± 200.0", "98.70 ± 0.20%", "2,395,210", "1234.5", "30.000"):
        assert whole in text
