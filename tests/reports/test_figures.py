from itertools import pairwise
from pathlib import Path

import pytest

from kd_lightning.reports.axis import Scale, spread
from kd_lightning.reports.comparison import Comparison, read_comparison
from kd_lightning.reports.figures import cost_charts, published_range, seed_chart

MEASURED = Path(__file__).parents[2] / "lightning_logs" / "measured"


def measured(name: str) -> Comparison:
    return read_comparison(MEASURED / f"{name}.json")


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([13, 47], [20, 30, 40]),  # 10.96 to 49.04
        ([0, 3], [0, 1, 2, 3]),
        ([0], [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ([98.7, 99.4], [98.8, 99.0, 99.2, 99.4]),
        ([1, 20], [1, 2, 5, 10, 20]),
        ([0.03, 40], [0.1, 1, 10]),  # with 1, 3 there would be seven
    ],
)
def test_ticks_are_round_and_few(values: list[float], ticks: list[float]) -> None:
    assert Scale.of(values).ticks() == pytest.approx(ticks)


def test_a_scale_is_logarithmic_from_ten_times_the_smallest_on() -> None:
    assert [Scale.of(values).log for values in ([1, 9.9], [1, 10], [0, 10])] == [False, True, False]
    scale = Scale(1.0, 100.0, log=True)
    assert [scale.fraction(value) for value in (1.0, 10.0, 100.0)] == pytest.approx([0, 0.5, 1])
    assert Scale(0.0, 50.0, log=False).across(25.0) == 50.0  # % of the width
    assert Scale(0.0, 50.0, log=False).across(50.0) == 96.0


@pytest.mark.parametrize(
    ("places", "moved"),
    [
        ([10, 50, 90], [10, 50, 90]),
        ([50, 50, 50], [40, 50, 60]),
        ([95, 5, 99], [90, 5, 100]),  # the last one may not go on past 100
        ([2, 4], [0, 10]),  # nor before 0
    ],
)
def test_labels_are_moved_apart_as_little_as_it_takes(places: list[float], moved: list[float]) -> None:
    assert spread(places, 10, 0, 100) == moved


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (67, (67, 67)),
        ("74 (best of 5 seeds)", (74, 74)),
        ("75.1 to 75.7", (75.1, 75.7)),
        ("9710, at most 9725", (9710, 9710)),
        ("best from 2.5", None),
        ("2 networks", None),
        (None, None),
    ],
)
def test_what_was_published_is_read_where_it_begins_with_a_figure(
    published: float | str | None, expected: tuple[float, float] | None
) -> None:
    assert published_range(published) == expected


def test_every_run_is_a_dot_at_its_figure_and_none_hides_another() -> None:
    comparison = measured("digits")
    chart = seed_chart(comparison)
    scale = Scale.of([figure for row in comparison.rows for figure in row.figures])
    for row, strip in zip(comparison.rows, chart.strips, strict=True):
        assert sorted(dot.x for dot in strip.dots) == sorted(map(scale.across, row.figures))
        assert len({(dot.x, dot.y) for dot in strip.dots}) == len(row.figures)
        assert {dot.words for dot in strip.dots} == {f"seed {n}: {row.figures[n]:g}" for n in row.seeds}
        assert all(strip.top < strip.line + dot.y < chart.height for dot in strip.dots)
    assert chart.axis == "errors"
    assert "logarithmic" in seed_chart(measured("mnist_hinton")).axis


def test_published_figures_are_bars() -> None:
    chart = seed_chart(measured("cifar10_tutorial"))
    teacher, baseline, *_, improved = chart.strips
    assert teacher.published is not None
    assert baseline.published is not None
    assert teacher.published[0] < teacher.published[1]  # 75.1 to 75.7
    assert baseline.published[1] < teacher.published[0]
    assert improved.published is None
    assert teacher.words == "teacher: 72.78"


@pytest.mark.parametrize("name", [file.stem for file in MEASURED.glob("*.json")])
def test_what_is_better_is_up_and_what_costs_less_is_left(name: str) -> None:
    rows = measured(name).rows
    charts = cost_charts(rows)
    timed = [title for title in ("time for one image", "time for 128 images") if any(row.latency for row in rows)]
    assert [chart.title for chart in charts] == ["size", *timed]
    size = charts[0]
    by_name = list(zip(rows, size.points, strict=True))
    for row, point in by_name:
        assert point.best <= point.y <= point.worst
        for other, its in by_name:
            if row.mebibytes < other.mebibytes:
                assert point.x < its.x
            if min(row.accuracies) > max(other.accuracies):
                assert point.y < its.y
    labels = sorted(point.label for point in size.points)
    assert all(later - earlier >= 15.9 for earlier, later in pairwise(labels))
    assert 0 <= labels[0] <= labels[-1] <= size.height
