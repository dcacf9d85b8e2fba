"""Paired differences, with numbers that were worked out by hand and in published tables of Student's t."""

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd_lightning.__main__ import main
from kd_lightning.recipe import Recipe
from kd_lightning.reports.columns import as_csv, cells, figures_with_interval
from kd_lightning.reports.comparison import Comparison, collect, merge, read_comparison
from kd_lightning.reports.difference_chart import best_first, difference_charts
from kd_lightning.reports.differences import differences, holm
from kd_lightning.reports.html import render
from kd_lightning.reports.right_images import pack
from kd_lightning.reports.rows import Row, RunFigures
from kd_lightning.stage import Stage
from tests.commands.made import write_run
from tests.pages import make_differences, recipe_pages, result_tables

BASELINE = [2500, 2480, 2520, 2500, 2510]
GAINS = [143, 117, 161, 130, 184]  # errors fewer, of 10,000: 1.43 points and so on


def row(name: str, errors: list[int], controls: tuple[str, ...] = (), **about: Any) -> Row:
    runs = [RunFigures(seed, wrong, 1.0, None, None, {}) for seed, wrong in enumerate(errors)]
    options = {"metric": "accuracy", "published": None, "images": 10_000, "of": 10_000, "parameters": 10, **about}
    return Row(name, runs=runs, mebibytes=1.0, reduction=None, device="cpu", threads=1, controls=controls, **options)


def against(rows: list[Row], name: str = "kd", control: str = "baseline") -> Any:
    return differences(rows)[name][control]


def gained(gains: list[int], name: str = "kd", **about: Any) -> list[Row]:
    taught = [wrong - gain for wrong, gain in zip(BASELINE, gains, strict=True)]
    return [row("baseline", BASELINE, **about), row(name, taught, ("baseline",), **about)]


def test_the_interval_is_student_s_over_seeds() -> None:
    # The mean of 1.43, 1.17, 1.61, 1.30, 1.84 is 1.47. Their squared deviations are 0.0016, 0.09, 0.0196, 0.0289 and
    # 0.1369, together 0.277: s = sqrt(0.277 / 4) = 0.26315, and its standard error 0.26315 / sqrt(5) = 0.117686. t for
    # 95 % and 4 degrees of freedom is 2.7764: the interval is 1.47 ± 0.32675.
    found = against(gained(GAINS))
    assert found.values == pytest.approx([1.43, 1.17, 1.61, 1.30, 1.84])
    assert (found.mean, found.low, found.high) == pytest.approx((1.47, 1.14325, 1.79675), abs=1e-4)
    # t = 1.47 / 0.117686 = 12.4909. With 4 degrees of freedom, P(T > t) = 1/2 - 3/8 u (1 - u² / 12), where
    # u = t / sqrt(1 + t² / 4) = 1.974837: 0.5 - 0.740564 * 0.675002 = 0.000118 on one side.
    assert found.p == found.holm == pytest.approx(2.38e-4, rel=0.01)
    assert found.verdict == "better"


def test_a_gain_smaller_than_its_spread_is_not_distinguished() -> None:
    # 1, -1, 2, 0 and 1.5 points: mean 0.7, s = 1.20416, standard error 0.53852, ± 1.49515.
    found = against(gained([100, -100, 200, 0, 150]))
    assert (found.mean, found.low, found.high) == pytest.approx((0.7, -0.79515, 2.19515), abs=1e-4)
    assert found.verdict == "not distinguishable at n = 5"


@pytest.mark.parametrize(
    ("metric", "mean", "verdict"),
    [("accuracy", -1.47, "worse"), ("errors", 147.0, "worse"), ("right", -147.0, "worse")],
)
def test_fewer_errors_are_better_in_every_metric(metric: str, mean: float, verdict: str) -> None:
    found = against(gained([-gain for gain in GAINS], metric=metric))
    assert (found.mean, found.verdict) == (pytest.approx(mean), verdict)


def test_runs_are_paired_by_their_seed() -> None:
    baseline = row("baseline", [100, 200, 300], metric="errors")
    taught = row("kd", [290, 90, 400], ("baseline",), metric="errors")
    runs = [run._replace(seed=seed) for run, seed in zip(taught.runs, (2, 0, 7), strict=True)]
    found = against([baseline, replace(taught, runs=runs)])
    assert (found.seeds, found.values, found.verdict) == ([2, 0], [-10, -10], "not distinguishable at n = 2")


def with_bits(name: str, right: np.ndarray, controls: tuple[str, ...] = (), **about: Any) -> Row:
    """A row whose runs have a bit per image: bool (seeds, images)."""
    made = row(name, [int((~each).sum()) for each in right], controls, images=right.shape[1], of=None, **about)
    return replace(
        made, runs=[run._replace(right_images=pack(each)) for run, each in zip(made.runs, right, strict=True)]
    )


def test_the_interval_of_a_small_test_set_covers_the_choice_of_images() -> None:
    # Of 100 images, the student is right where its control is not in 20, and the reverse in 5, with all four seeds: the
    # mean is 15 points. An image's difference has the variance 0.25 - 0.15² = 0.2275, the mean of 100 has a standard
    # error of sqrt(0.2275 / 100) = 4.77 points: 15 ± 1.96 * 4.77. Seeds that do not differ have no t interval.
    ours, theirs = np.zeros((4, 100), dtype=bool), np.zeros((4, 100), dtype=bool)
    ours[:, :20], theirs[:, 20:25] = True, True
    found = against([with_bits("baseline", theirs), with_bits("kd", ours, ("baseline",))])
    assert (found.mean, found.method, found.verdict) == (pytest.approx(15), "bootstrap", "better")
    assert (found.low, found.high) == pytest.approx((15 - 9.35, 15 + 9.35), abs=1.0)  # in steps of an image
    assert 0 < found.p < 0.005
    in_errors = [with_bits("baseline", theirs, metric="errors"), with_bits("kd", ours, ("baseline",), metric="errors")]
    found = against(in_errors)
    assert (found.mean, found.verdict) == (pytest.approx(-15), "better")
    assert (found.low, found.high) == pytest.approx((-15 - 9.35, -15 + 9.35), abs=1.0)  # in steps of an image


def test_the_interval_of_a_small_test_set_covers_the_seeds() -> None:
    # All images alike: seeds are right on all of 64 images (two of them) or on none (two), their control on none. The
    # differences are 100, 100, 0 and 0 points: s = 57.735, and its standard error 28.8675. Resampled means are sums of
    # four draws: 0, 25, …, 100, moved away from 50 by sqrt(4 / 3).
    ours = np.zeros((4, 64), dtype=bool)
    ours[:2] = True
    found = against([with_bits("baseline", np.zeros_like(ours)), with_bits("kd", ours, ("baseline",))])
    spread = 50 * (4 / 3) ** 0.5
    assert (found.low, found.high) == pytest.approx((50 - spread, 50 + spread))
    assert found.verdict == "not distinguishable at n = 4"


def test_without_a_bit_per_image_or_with_many_images_the_interval_is_student_s() -> None:
    small = gained([3, 1, 2, 4, 3], images=1000 * 3, of=None)
    assert against(small).method == "t"
    theirs = np.zeros((3, 2000), dtype=bool)
    ours = theirs.copy()
    ours[0, 0] = True
    rows = [with_bits("baseline", theirs), with_bits("kd", ours, ("baseline",))]
    assert against(rows).method == "t"
    few = [with_bits("baseline", theirs[:, :80]), with_bits("kd", ours[:, :80], ("baseline",))]
    assert against(few).method == "bootstrap"
    few[0] = replace(few[0], runs=[run._replace(right_images=None) for run in few[0].runs])
    assert against(few).method == "t"
    assert against([with_bits("baseline", theirs[:1, :80]), with_bits("kd", ours[:1, :80], ("baseline",))]).low is None


@pytest.mark.parametrize(
    ("metric", "errors", "images", "text"),
    # Wilson's interval of 7 in 400: (7 / 400 + z² / 800 ± z sqrt(7 / 400 * 393 / 400 / 400 + z² / 640000)) /
    # (1 + z² / 400), with z² = 3.8415: (0.0175 + 0.004802 ± 0.013718) / 1.009604, or 0.00850 to 0.03568.
    [
        ("accuracy", 7, 400, "98.2 (96.4 to 99.1)"),
        ("errors", 7, 400, "7 (3 to 14)"),
        ("right", 7, 400, "393 (386 to 397)"),
    ],
)
def test_a_single_run_has_wilson_s_interval_over_images(metric: str, errors: int, images: int, text: str) -> None:
    assert figures_with_interval(row("teacher", [errors], metric=metric, images=images, of=images)) == text


def test_p_values_are_corrected_over_the_table() -> None:
    # In ascending order 0.01 * 3, 0.03 * 2 and 0.04 * 1, none below the one before.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5]) == [0.5]
    assert holm([]) == []
    # A gain that is certain in a table of its own: mean 0.4, s = 0.316, t = 2.83, p = 0.047; of three such, of none.
    gains = [80, 60, 20, 40, 0]
    (baseline, kd), alone = gained(gains), against(gained(gains))
    assert (alone.verdict, alone.p) == ("better", pytest.approx(0.047, abs=0.001))
    three = [baseline, *(row(name, kd.errors, ("baseline",)) for name in ("kd", "dkd", "dist"))]
    assert [against(three, name).holm for name in ("kd", "dkd", "dist")] == pytest.approx([3 * alone.p] * 3)
    assert against(three).verdict == "not distinguishable at n = 5"


@pytest.mark.parametrize(
    ("gains", "interval", "p"), [([10], (None, None), None), ([10, 10], (0.1, 0.1), 1.0), ([0, 0], (0.0, 0.0), 1.0)]
)
def test_without_a_spread_there_is_no_verdict(gains: list[int], interval: Any, p: float | None) -> None:
    count = len(gains)
    baseline, kd = row("baseline", [50] * count), row("kd", [50 - gain for gain in gains], ("baseline",))
    found = against([baseline, kd])
    assert (found.low, found.high) == (pytest.approx(interval) if p else interval)
    assert (found.p, found.verdict) == (p, f"not distinguishable at n = {count}")


def test_a_chart_has_a_line_for_each_stage_with_the_best_first() -> None:
    (baseline, kd), (_, worse) = gained(GAINS), gained([-10, -20, 0, -10, 15], "worse")
    comparison = Comparison("Made", "", "accuracy", "", {}, {}, [baseline, worse, kd])
    (chart,) = difference_charts(comparison)
    assert [strip.name for strip in chart.strips] == ["kd", "worse"]
    assert [strip.decided for strip in chart.strips] == [True, False]
    assert chart.strips[0].words == "+1.47 (+1.14 to +1.80), better"
    # The axis is from -0.214 to 1.84, the ends of an interval and of the dots, and 6 % more on either side: -0.3372 to
    # 1.9632, of which 4 % of the width to the left and right are free. 0 is at 4 + 92 * 0.3372 / 2.3005.
    assert chart.zero == pytest.approx(17.49, abs=0.05)
    assert chart.strips[0].mean == pytest.approx(4 + 92 * (1.47 + 0.3372) / 2.3005, abs=0.05)
    assert chart.strips[0].interval == pytest.approx(
        [4 + 92 * (x + 0.3372) / 2.3005 for x in (1.14325, 1.79675)], abs=0.05
    )
    assert [dot.words for dot in chart.strips[0].dots][::4] == ["seed 1: +1.17", "seed 4: +1.84"]
    assert max(dot.y for dot in chart.strips[0].dots) < 0  # above the interval
    assert [tick.words for tick in chart.ticks] == ["0", "+0.5", "+1", "+1.5"]
    errors = replace(comparison, metric="errors", rows=[replace(row, metric="errors") for row in comparison.rows])
    (chart,) = difference_charts(errors)
    assert [strip.name for strip in chart.strips] == ["kd", "worse"]  # -147 errors, and +5
    assert chart.axis == "difference to baseline in errors"
    page = render(errors)
    assert "<h3>Difference to baseline</h3>" in page
    assert "kd: -147.0 (-179.7 to -114.3), better; worse: " in page
    assert "Differences to controls" not in render(replace(errors, rows=errors.rows[:1]))


def test_packages_of_statistics_are_imported_where_they_are_used() -> None:
    source = Path(differences.__code__.co_filename).read_text()
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    at_the_top = {name for node in imports for name in ast.unparse(node).replace(".", " ").split()}
    assert {"statsmodels", "scipy", "pandas"}.isdisjoint(at_the_top)
    assert "from statsmodels.stats.multitest import" in source


def recipe(**stages: Any) -> Recipe:
    listed = {name: Stage(name, {}, **about) for name, about in stages.items()}
    return Recipe("made", listed, "Made", "nowhere", "errors", 2, controls=["kd", "baseline"])


STAGES: dict[str, Any] = {
    "teacher": {},
    "baseline": {},
    "kd": {"teacher": "teacher"},
    "dkd": {"teacher": "teacher"},
    "apart": {"controls": []},
    "own": {"controls": ["teacher"]},
}


def test_each_pair_is_compared_once_and_no_teacher_is() -> None:
    made = recipe(**STAGES)
    found = {name: made.controls_of(name) for name in [*STAGES, "other"]}
    assert found == {
        "teacher": [],
        "baseline": [],
        "kd": ["baseline"],
        "dkd": ["kd", "baseline"],
        "apart": [],
        "own": ["teacher"],
        "other": [],
    }


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of a baseline, a student of it and a better one."""
    monkeypatch.chdir(tmp_path)
    gains = {"baseline": [0] * 5, "kd": GAINS, "dkd": [2 * gain + 3 * (gain % 7) for gain in GAINS]}
    for stage, its in gains.items():
        for seed, gain in enumerate(its):
            test = {"errors": BASELINE[seed] - gain, "images": 10_000, "nll": 0.7, "calibration_error": 0.04}
            write_run(tmp_path, stage, seed, test=test)
    stages = {name: {"config": {}} for name in gains}
    Path("made.yaml").write_text(json.dumps({"title": "Made", "controls": ["kd", "baseline"], "stages": stages}))
    return tmp_path


def test_table_csv_and_record_have_the_differences(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "made.yaml", "--runs", str(runs)]
    assert main([*words, "--format", "csv", "--columns", "minus_baseline,verdict_baseline,minus_baseline_low"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "stage,minus_baseline,verdict_baseline,minus_baseline_low"
    assert lines[1] == "baseline,,,"
    stage, gain, verdict, low = lines[6].split(",")
    assert (stage, float(gain), verdict) == ("kd", pytest.approx(1.43), "better")
    assert float(low) == pytest.approx(1.14325, abs=1e-4)
    assert main([*words, "--format", "json"]) == 0
    rows = {one["name"]: one for one in json.loads(capsys.readouterr().out)["rows"]}
    assert "differences" not in rows["baseline"]
    assert [its["control"] for its in rows["dkd"]["differences"]] == ["kd", "baseline"]
    kd = rows["kd"]["differences"][0]
    assert (kd["mean"], kd["p"], kd["verdict"]) == (pytest.approx(1.47), pytest.approx(2.38e-4, rel=0.01), "better")
    assert kd["p"] < kd["holm"] < 0.001
    assert main([*words, "--columns", "minus_baseline,verdict_kd"]) == 0
    out = capsys.readouterr().out
    assert "+1.47 │" in out
    assert "(+1.14 to +1.80) │" in out
    assert main(words) == 0
    first, second = capsys.readouterr().out.split("Differences to controls: mean and 95 % interval")
    assert [name in first for name in ("│ baseline ", "│ kd ", "nll", "minus")] == [True, True, True, False]
    assert [name in second for name in ("│ baseline ", "│ kd ", "│ dkd ", "nll")] == [False, True, True, False]
    report = runs / "compare" / "report.html"
    for heading in ("minus kd", "against baseline", "nll", "calibration error"):
        assert f'<th scope="col">{heading}</th>' in report.read_text()


def test_a_record_is_read_and_merged_with_its_controls(runs: Path) -> None:
    made = Recipe("made", {n: Stage(n, {}) for n in ("baseline", "kd", "dkd")}, "Made", controls=["baseline"])
    comparison = collect(made, runs, "command")
    file = runs / "comparison.json"
    file.write_text(json.dumps(comparison.record()))
    again = read_comparison(file)
    assert again.record()["rows"] == comparison.record()["rows"]
    assert cells(again) == cells(comparison)
    assert as_csv(again) == as_csv(comparison)
    assert "+1.47 (+1.14 to +1.80)" in render(again)
    merged = merge({"one": comparison, "two": again}, "command")
    assert merged.rows[1].controls == ("one baseline",)
    assert against(merged.rows, "two kd", "two baseline").holm == pytest.approx(2 * against(comparison.rows).holm)


def test_a_control_that_cannot_be_compared_is_named(runs: Path) -> None:
    made = Recipe("made", {n: Stage(n, {}) for n in ("baseline", "kd", "none")}, "Made", controls=["baseline", "none"])
    for seed in range(5):
        write_run(runs, "kd", seed, test={"errors": 3, "images": 500})
    comparison = collect(made, runs, "command")
    assert differences(comparison.rows) == {}
    assert "kd: 500 test images, its control baseline has 10000" in comparison.warnings
    swapped = Recipe("made", {n: Stage(n, {}) for n in ("none", "kd")}, "Made", controls=["none"])
    lines = collect(swapped, runs, "command").warnings
    assert "none: a control that has no runs (kd-lightning reproduce trains it)" in lines


def test_pages_have_table_and_picture_of_a_measured_comparison(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = runs / "lightning_logs" / "measured"
    measured.mkdir(parents=True)
    stages = {n: Stage(n, {}, tries=[{"model.temperature": 2}] * (n == "dkd")) for n in ("baseline", "kd", "dkd")}
    made = Recipe("made", stages, "Made", controls=["baseline"])
    record = collect(made, runs, "command").record()
    (measured / "made.json").write_text(json.dumps(record))
    of_recipe = recipe_pages.page(made, record)
    assert "| `kd` | `baseline` | +1.47 | +1.14 to +1.80 | 0.0003 | better |" in of_recipe
    assert "Chosen from 1 tries: `{'model.temperature': 2}`." in of_recipe
    page = "Losses:\n\n<!-- comparison: made -->\n\n| old |\n\n<!-- end of comparison -->\n\nMore.\n"
    filled = result_tables.with_comparisons(page, runs)
    assert result_tables.with_comparisons(filled, runs) == filled
    head, _, baseline, kd, _ = [line for line in filled.splitlines() if line.startswith("|")]
    assert head == "| stage | ours | n | minus baseline | against baseline | nll | calibration error | seconds |"
    assert kd.replace("\N{NO-BREAK SPACE}", " ").startswith(
        "| `kd` | 76.45 ± 0.17 | 5 | +1.47 (+1.14 to +1.80) | better | 0.7000 ± 0.0000 |"
    )
    assert (baseline.count("|"), filled.startswith("Losses:"), filled.endswith("\n\nMore.\n")) == (9, True, True)
    monkeypatch.setattr(make_differences, "MEASURED", measured)
    monkeypatch.setattr(make_differences, "FOLDER", runs)
    make_differences.main("made", "baseline")
    assert (runs / "made_minus_baseline_light.png").is_file()
    assert (runs / "made_minus_baseline_dark.png").is_file()
    pairs = best_first(read_comparison(measured / "made.json").rows, "baseline")
    (axes,) = make_differences.draw(pairs, "baseline", "points", "light").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dkd", "kd"]
    assert axes.texts[1].get_text() == "+1.47 (+1.14 to +1.80)\nbetter"
    with pytest.raises(SystemExit, match="made: no differences to kd found"):
        make_differences.main("made", "kd")
