"""The report: one HTML file that shows a comparison whole, from disk, without a script."""

import heapq
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from kd_lightning import __version__
from kd_lightning.recipe import METRICS
from kd_lightning.reports.columns import batch_sizes, cells, decimals, images_in_words, run_lines
from kd_lightning.reports.comparison import Comparison
from kd_lightning.reports.figures import MOST_NAMES, cost_charts, seed_chart
from kd_lightning.reports.provenance import origin_of
from kd_lightning.reports.rows import confusion_of
from kd_lightning.reports.runs import Group
from kd_lightning.utils.atomic_write import write_text

MOST_CLASSES = 30
"""Above it a matrix is not readable: the most confused pairs are shown in its place."""

PAIRS = 20
SHADES = 5
"""Of a cell of errors, by their number; the page's style has a colour for each."""

BETTER = {"errors": "fewer are better", "right": "more are better", "accuracy": "more is better"}


class Cell(NamedTuple):
    """So many images of one class that were taken for one class; its shade is of the style's classes."""

    images: int
    shade: str


class Confusion(NamedTuple):
    """What a stage takes for what, all its runs together: a matrix, or of many classes the most confused pairs."""

    name: str
    runs: int
    errors: int
    images: int
    class_names: Sequence[str]
    matrix: list[list[Cell]]
    pairs: list[dict[str, Any]]


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Write `report.html` and `comparison.json` into a folder.

    Returns:
        The report's path.
    """
    write_text(folder / "comparison.json", json.dumps(comparison.record(), indent=2) + "\n")
    report = folder / "report.html"
    write_text(report, render(comparison))
    return report


def render(comparison: Comparison) -> str:
    """The report's HTML; every word that is a user's is escaped."""
    environment = Environment(
        loader=PackageLoader("kd_lightning.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = comparison.rows
    return environment.get_template("report.html").render(
        comparison=comparison,
        metric=METRICS[comparison.metric],
        better=BETTER[comparison.metric],
        cells=cells(comparison),
        seeds=seed_chart(comparison),
        costs=cost_charts(rows),
        numbered=len(rows) > MOST_NAMES,
        runs=_told(_readable(comparison)),
        timed=dict.fromkeys(f"{row.device}, CPU threads: {row.threads}" for row in rows if batch_sizes([row])),
        images=list(dict.fromkeys(images_in_words(row) for row in rows)),
        confusions=[
            _confusion(group) for group in comparison.groups if any(run.results.get("confusion") for run in group.runs)
        ],
        most_classes=MOST_CLASSES,
        origins=[origin_of(group) for group in comparison.groups],
        version=__version__,
    )


def _readable(comparison: Comparison) -> list[dict[str, object]]:
    """The lines of all runs, with accuracy and agreement in the decimals that their test images bear."""
    lines = run_lines(comparison)
    for one in lines:
        for column in ("accuracy", "agreement"):
            if isinstance(value := one[column], float):
                one[column] = f"{value:.{decimals(int(str(one['images']))) + 2}f}"
        one["of"] = None if one["of"] == one["images"] else one["of"]
    return lines


def _told(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    """Lines without the columns that say nothing in any of them."""
    columns = [column for column in lines[0] if any(line[column] is not None for line in lines)]
    return [{column: line[column] for column in columns} for line in lines]


def _confusion(group: Group) -> Confusion:
    counted = [run for run in group.runs if run.results.get("confusion")]
    names = [str(name) for name in counted[0].results["class_names"]]
    its = [counts for run in counted if len(counts := confusion_of(run)) == len(names)]
    total = [[*map(sum, zip(*rows, strict=True))] for rows in zip(*its, strict=True)] if len(its) > 1 else its[0]
    images, right = sum(map(sum, total)), sum(total[place][place] for place in range(len(names)))
    few = len(names) <= MOST_CLASSES
    return Confusion(
        name=group.name,
        runs=len(its),
        errors=images - right,
        images=images,
        class_names=names,
        matrix=_shaded(total) if few else [],
        pairs=[] if few else most_confused(total, names),
    )


def _shaded(counts: list[list[int]]) -> list[list[Cell]]:
    """Errors by their number, from `e1`, the fewest, to `e5`; what was right, `right`, has no shade among them."""
    errors = [count for label, row in enumerate(counts) for place, count in enumerate(row) if place != label]
    most = max(errors, default=0) or 1
    return [
        [
            Cell(count, "right" if place == label else f"e{-(-SHADES * count // most)}" if count else "none")
            for place, count in enumerate(row)
        ]
        for label, row in enumerate(counts)
    ]


def most_confused(counts: list[list[int]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The pairs of label and prediction with the most errors, the most first, twenty at most."""
    found = (
        (count, label, place)
        for label, row in enumerate(counts)
        for place, count in enumerate(row)
        if count and place != label
    )
    worst = heapq.nsmallest(PAIRS, found, key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [
        {"label": names[label], "taken for": names[place], "times": count, "of its images": sum(counts[label])}
        for count, label, place in worst
    ]
