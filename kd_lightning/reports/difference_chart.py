"""Layout of the report's charts of differences: a line for each stage, with its interval and a dot for each seed."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from kd_lightning.recipe import METRICS
from kd_lightning.reports.axis import Scale
from kd_lightning.reports.comparison import Comparison
from kd_lightning.reports.control_columns import difference_in_words, number_in_words
from kd_lightning.reports.differences import Difference, differences
from kd_lightning.reports.figures import BOTTOM, DOT, LINE, MAX_LINE_LENGTH, Dot, Mark, shortened, swarm
from kd_lightning.reports.rows import Row


class DifferenceStrip(NamedTuple):
    """The difference of a row to the control; `mean` and the ends of the `interval` are in %."""

    name: str
    words: str
    top: float
    line: float
    dots: list[Dot]
    mean: float
    interval: tuple[float, float] | None
    decided: bool


class DifferenceChart(NamedTuple):
    """Chart of the differences to one control; `zero` is in %, and the description has all names and words in full."""

    control: str
    strips: list[DifferenceStrip]
    ticks: list[Mark]
    zero: float
    height: float
    axis: str
    description: str


def best_first(rows: Sequence[Row], control: str) -> list[tuple[Row, Difference]]:
    """Return the rows that are compared with a control, with their differences, the best first."""
    found = differences(rows)
    pairs = [(row, found[row.name][control]) for row in rows if control in found.get(row.name, {})]
    return sorted(pairs, key=lambda pair: pair[1].mean * (1 if pair[0].metric == "errors" else -1))


def difference_charts(comparison: Comparison) -> list[DifferenceChart]:
    """Lay out a chart for each control."""
    found = differences(comparison.rows)
    controls = dict.fromkeys(name for its in found.values() for name in its)
    return [_chart(control, best_first(comparison.rows, control), comparison.metric) for control in controls]


def _chart(control: str, pairs: Sequence[tuple[Row, Difference]], metric: str) -> DifferenceChart:
    ends = [end for _, each in pairs for end in (each.low, each.high) if end is not None]
    scale = Scale.with_zero([*ends, *(value for _, each in pairs for value in each.values)])
    strips: list[DifferenceStrip] = []
    top = 0.0
    for row, each in pairs:
        by_seed = dict(zip(each.seeds, each.values, strict=True))
        dots = swarm(by_seed, scale, partial(number_in_words, row=row, difference=each))
        dots = [dot._replace(y=dot.y - DOT) for dot in dots]  # above the interval
        words = f"{difference_in_words(row, each)}, {each.verdict}"
        line = top + 2 * LINE + 1.5 * DOT - min(dot.y for dot in dots)
        interval = None
        if each.low is not None and each.high is not None:
            interval = scale.across(each.low), scale.across(each.high)
        strips.append(
            DifferenceStrip(
                name=shortened(row.name, MAX_LINE_LENGTH),
                words=words,
                top=top + LINE,
                line=line,
                dots=dots,
                mean=scale.across(each.mean),
                interval=interval,
                decided=each.verdict in ("better", "worse"),
            )
        )
        top = line + 2 * DOT
    lines = [f"{row.name}: {difference_in_words(row, each)}, {each.verdict}" for row, each in pairs]
    unit = "points" if metric == "accuracy" else METRICS[metric]
    return DifferenceChart(
        control=control,
        strips=strips,
        ticks=[Mark(scale.across(value), f"{value:+g}" if value else "0") for value in scale.ticks()],
        zero=scale.across(0.0),
        height=top + BOTTOM,
        axis=f"difference to {shortened(control, MAX_LINE_LENGTH - len(unit) - 16)} in {unit}",
        description="; ".join(lines) + ".",
    )
