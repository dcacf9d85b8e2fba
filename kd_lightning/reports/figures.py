"""Layout of the report's charts: positions of dots, labels and ticks.

Horizontal positions are in % of the chart's width, vertical ones in pixels, so that text has the same size on a phone.
"""

import math
import re
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from kd_lightning.recipe import METRICS
from kd_lightning.reports.axis import Scale, spread
from kd_lightning.reports.column import decimals, mean_and_spread
from kd_lightning.reports.columns import (
    accuracies_in_words,
    batch_sizes,
    figures_in_words,
    median_latency,
)
from kd_lightning.reports.comparison import Comparison
from kd_lightning.reports.rows import Row

GUTTER = 13.0
"""Left margin for the labels of ticks, in % of the width."""

MAX_NAME_LENGTH, MAX_LINE_LENGTH = 30, 58
"""Characters that fit on a phone: beside a dot, and above a strip."""

MAX_NAMES = 8
"""Rows above which a cost chart has numbers in place of names, which would overlap."""

LINE, DOT = 16.0, 9.0
"""Distances of labels and of stacked dots, in pixels."""

CLOSE = 2.5
"""Distance at which two dots overlap on a phone, in % of the width."""

TOP, BOTTOM = 24.0, 48.0
"""Margins in pixels, for the first label, and for ticks and the name of the axis."""


class Mark(NamedTuple):
    """A tick of an axis."""

    place: float
    words: str


class Dot(NamedTuple):
    """A run: `x` in %, `y` in pixels below its strip's line."""

    x: float
    y: float
    words: str


class Strip(NamedTuple):
    """The runs of a row; `mean` and the ends of the `published` range are in %."""

    words: str
    top: float
    line: float
    dots: list[Dot]
    mean: float
    published: tuple[float, float] | None


class SeedChart(NamedTuple):
    """Chart of every run."""

    strips: list[Strip]
    ticks: list[Mark]
    height: float
    axis: str
    published: bool


def seed_chart(comparison: Comparison) -> SeedChart:
    """Lay out every run as a dot, a strip for each row, and published figures as bars."""
    published = [published_range(row.published) for row in comparison.rows]
    ends = [value for pair in published if pair for value in pair]
    scale = Scale.of([value for row in comparison.rows for value in row.figures] + ends)
    strips: list[Strip] = []
    top = 0.0
    for row, pair in zip(comparison.rows, published, strict=True):
        by_seed = dict(zip(row.seeds, row.figures, strict=True))
        dots = swarm(by_seed, scale, partial(_figure_in_words, row=row))
        ours = figures_in_words(row)
        words = f"{shortened(row.name, MAX_LINE_LENGTH - len(ours))}: {ours}"
        line = top + LINE + 2 * DOT - min(dot.y for dot in dots)
        bar = (scale.across(pair[0]), scale.across(pair[1])) if pair else None
        mean = scale.across(statistics.fmean(row.figures))
        strips.append(Strip(words, top + LINE, line, dots, mean, bar))
        top = line + 2 * DOT
    ticks = [Mark(scale.across(value), f"{value:g}") for value in scale.ticks()]
    axis = METRICS[comparison.metric] + (", logarithmic" if scale.log else "")
    return SeedChart(strips, ticks, top + BOTTOM, axis, bool(ends))


def _figure_in_words(figure: float, row: Row) -> str:
    return mean_and_spread([figure], decimals(row.images) if row.metric == "accuracy" else 1)


def swarm(by_seed: dict[int, float], scale: Scale, words: Callable[[float], str]) -> list[Dot]:
    """Lay out the dots of a row's runs, stacked where they would overlap."""
    dots: list[Dot] = []
    for seed, figure in sorted(by_seed.items(), key=lambda pair: pair[1]):
        x = scale.across(figure)
        taken = {dot.y for dot in dots if abs(dot.x - x) < CLOSE}
        free = next(-DOT * level for level in range(len(dots) + 1) if -DOT * level not in taken)
        dots.append(Dot(x, free, f"seed {seed}: {words(figure)}"))
    return dots


def published_range(published: float | str | None) -> tuple[float, float] | None:
    """Return the range of a published figure such as 206, `70.2 to 70.8` or `206 (133 on threes)`; None without one."""
    if isinstance(published, int | float):
        return float(published), float(published)
    found = re.match(r"(\d+(?:\.\d+)?)(?: to (\d+(?:\.\d+)?))?(?=$| \(|,)", published or "")
    return (float(found[1]), float(found[2] or found[1])) if found else None


class Point(NamedTuple):
    """A row in a cost chart: `x` in %, all else in pixels, with a line from its worst to its best run."""

    name: str
    words: str
    x: float
    y: float
    worst: float
    best: float
    label: float
    to_the_left: bool
    distilled: bool


class CostChart(NamedTuple):
    """Chart of accuracy against size or latency."""

    title: str
    axis: str
    points: list[Point]
    x_ticks: list[Mark]
    y_ticks: list[Mark]
    height: float


def cost_charts(rows: Sequence[Row]) -> list[CostChart]:
    """Lay out mean accuracy against size, and against the median latency of each batch size."""
    costs: dict[tuple[str, str], list[float | None]] = {("size", "MiB"): [row.mebibytes for row in rows]}
    for size in batch_sizes(rows):
        images = size.removeprefix("batch_")
        title = "time for one image" if images == "1" else f"time for {images} images"
        costs[title, "milliseconds"] = [median_latency(row, size) for row in rows]
    names = [
        shortened(row.name, MAX_NAME_LENGTH) if len(rows) <= MAX_NAMES else str(place)
        for place, row in enumerate(rows, start=1)
    ]
    charts: list[CostChart] = []
    for (title, unit), its in costs.items():
        known = [(n, row, c) for n, row, c in zip(names, rows, its, strict=True) if c and 0 < c < math.inf]
        if known:
            charts.append(_cost_chart(title, unit, known))
    return charts


def shortened(name: str, longest: int) -> str:
    """Shorten a name in the middle to at most `longest` characters."""
    end = longest // 2
    return name if len(name) <= longest else f"{name[: longest - end - 1]}…{name[-end:]}"


def _cost_chart(title: str, unit: str, known: Sequence[tuple[str, Row, float]]) -> CostChart:
    across = Scale.of([cost for _, _, cost in known])
    # A logarithmic axis of errors: 99.0 and 99.5 % are as far apart as 90 and 95 %.
    down = Scale.of([100 - accuracy for _, row, _ in known for accuracy in row.accuracies])
    tall = max(260.0, LINE * (len(known) + 2))

    def at(accuracy: float) -> float:
        return round(TOP + tall * down.fraction(100 - accuracy), 1)

    points: list[Point] = []
    for name, row, cost in known:
        mean, x = at(statistics.fmean(row.accuracies)), across.across(cost, GUTTER)
        words = f"{row.name}: {accuracies_in_words(row)} %, {cost:.4g} {unit}"
        distilled = row.reduction is not None or bool(row.agreement)
        ends = at(min(row.accuracies)), at(max(row.accuracies))
        points.append(Point(name, words, x, mean, *ends, label=mean, to_the_left=x > 50, distilled=distilled))
    labels = spread([point.y for point in points], LINE, TOP, TOP + tall)
    return CostChart(
        title=title,
        axis=unit + (", logarithmic" if across.log else ""),
        points=[point._replace(label=label) for point, label in zip(points, labels, strict=True)],
        x_ticks=[Mark(across.across(value, GUTTER), f"{value:g}") for value in across.ticks()],
        y_ticks=[Mark(at(100 - value), f"{100 - value:.4g} %") for value in down.ticks()],
        height=TOP + tall + BOTTOM,
    )
