"""Write a comparison as one HTML file without scripts."""

import heapq
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from kd_lightning import __version__
from kd_lightning.recipe import METRICS
from kd_lightning.reports.by_class import CLASS_FIGURES, class_figures_of, confusion_of
from kd_lightning.reports.column import decimals
from kd_lightning.reports.columns import IN_PERCENT, batch_sizes, cells, images_in_words, run_lines
from kd_lightning.reports.comparison import Comparison
from kd_lightning.reports.difference_chart import difference_charts
from kd_lightning.reports.figures import MAX_NAMES, cost_charts, seed_chart
from kd_lightning.reports.headline import headline
from kd_lightning.reports.provenance import provenance_of
from kd_lightning.reports.runs import Group
from kd_lightning.utils.atomic_write import write_text

MAX_CLASSES = 30
"""Largest confusion matrix; of more classes, the most confused pairs are shown."""

PAIRS = 20

MAX_CLASS_LINES = 100
"""Classes in a table of class figures; of more, those with the lowest F1."""
SHADES = 5
"""Shades of cells by number of errors; the style sheet has a colour for each."""

BETTER = {"errors": "fewer are better", "right": "more are better", "accuracy": "more is better"}


class Cell(NamedTuple):
    """A cell of a confusion matrix; its shade is a class of the style sheet."""

    images: int
    shade: str


class Confusion(NamedTuple):
    """Confusion matrix of a stage, summed over runs; of many classes, the most confused pairs."""

    name: str
    runs: int
    errors: int
    images: int
    class_names: Sequence[str]
    matrix: list[list[Cell]]
    pairs: list[dict[str, Any]]


class ClassTable(NamedTuple):
    """Figures of the classes of a stage, means over its runs, a line for each class."""

    name: str
    runs: int
    classes: int
    lines: list[dict[str, Any]]


def write_report(comparison: Comparison, folder: Path, names: Sequence[str] = ()) -> Path:
    """Write `report.html` and `comparison.json` into a folder.

    Args:
        comparison: what to write.
        folder: is made if it is absent.
        names: columns of the table, see `choose`.

    Returns:
        The report's path.
    """
    write_text(folder / "comparison.json", json.dumps(comparison.record(), indent=2) + "\n")
    report = folder / "report.html"
    write_text(report, render(comparison, names))
    return report


def render(comparison: Comparison, names: Sequence[str] = ()) -> str:
    """Return the report's HTML, in which text from users is escaped; `names` as in `write_report`."""
    environment = Environment(
        loader=PackageLoader("kd_lightning.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows, table = comparison.rows, cells(comparison, names)
    return environment.get_template("report.html").render(
        comparison=comparison,
        metric=METRICS[comparison.metric],
        better=BETTER[comparison.metric],
        headline=headline(comparison),
        cells=table,
        shows_times=any(heading.startswith("ms, ") for heading in table[0]),
        seeds=seed_chart(comparison),
        differences=difference_charts(comparison),
        costs=cost_charts(rows),
        numbered=len(rows) > MAX_NAMES,
        runs=_without_empty_columns(_readable(comparison)),
        timed=dict.fromkeys(f"{row.device}, CPU threads: {row.threads}" for row in rows if batch_sizes([row])),
        images=list(dict.fromkeys(images_in_words(row) for row in rows)),
        confusions=[
            _confusion(group) for group in comparison.groups if any(run.results.get("confusion") for run in group.runs)
        ],
        most_classes=MAX_CLASSES,
        class_tables=[_class_table(group) for group in comparison.groups if any(map(class_figures_of, group.runs))],
        origins=[provenance_of(group) for group in comparison.groups],
        version=__version__,
    )


def _readable(comparison: Comparison) -> list[dict[str, object]]:
    """Return the lines of all runs, with the decimals that their test images support."""
    lines = run_lines(comparison)
    for one in lines:
        for column in ("accuracy", "agreement", *IN_PERCENT):
            if isinstance(value := one.get(column), float):
                one[column] = f"{value:.{decimals(int(str(one['images']))) + 2}f}"
        one["of"] = None if one["of"] == one["images"] else one["of"]
    return lines


def _without_empty_columns(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the lines without columns that are empty in all of them."""
    columns = [column for column in lines[0] if any(line[column] is not None for line in lines)]
    return [{column: line[column] for column in columns} for line in lines]


def _confusion(group: Group) -> Confusion:
    counted = [run for run in group.runs if run.results.get("confusion")]
    names = [str(name) for name in counted[0].results["class_names"]]
    its = [counts for run in counted if len(counts := confusion_of(run)) == len(names)]
    total = [[*map(sum, zip(*rows, strict=True))] for rows in zip(*its, strict=True)] if len(its) > 1 else its[0]
    images, correct = sum(map(sum, total)), sum(total[place][place] for place in range(len(names)))
    few = len(names) <= MAX_CLASSES
    return Confusion(
        name=group.name,
        runs=len(its),
        errors=images - correct,
        images=images,
        class_names=names,
        matrix=_shaded(total) if few else [],
        pairs=[] if few else most_confused(total, names),
    )


def _class_table(group: Group) -> ClassTable:
    measured = [run for run in group.runs if class_figures_of(run)]
    figures = [class_figures_of(run) for run in measured]
    images = dict(zip(measured[0].results["class_names"], measured[0].results["class_images"], strict=True))
    lines = [
        {
            "class": str(name),
            "images": count,
            **{
                kind: statistics.fmean(its[kind][str(name)] for its in figures if str(name) in its[kind])
                for kind in CLASS_FIGURES
            },
        }
        for name, count in images.items()
    ]
    worst = sorted(lines, key=lambda line: line["f1"])[:MAX_CLASS_LINES] if len(lines) > MAX_CLASS_LINES else lines
    return ClassTable(group.name, len(measured), len(lines), [_rounded(line) for line in worst])


def _rounded(line: dict[str, Any]) -> dict[str, Any]:
    return {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in line.items()}


def _shaded(counts: list[list[int]]) -> list[list[Cell]]:
    """Return shaded cells: errors from `e1`, the fewest, to `e5`; correct ones are `right`."""
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
    """Return the at most twenty pairs of label and prediction with the most errors, in descending order."""
    found = (
        (count, label, place)
        for label, row in enumerate(counts)
        for place, count in enumerate(row)
        if count and place != label
    )
    worst = heapq.nsmallest(PAIRS, found, key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [
        {"label": names[label], "predicted": names[place], "errors": count, "images of the label": sum(counts[label])}
        for count, label, place in worst
    ]
