"""A comparison as a table: its cells in words, for a terminal, and line by line as CSV."""

import csv
import io
import math
import statistics
import sys
from collections.abc import Sequence

from rich.table import Table

from kd_lightning.recipe import METRICS
from kd_lightning.reports.comparison import Comparison
from kd_lightning.reports.rows import Row
from kd_lightning.utils.csv_text import csv_cell

MOST_DECIMALS = 2
"""Of a percentage."""


def mean_and_spread(values: Sequence[float], digits: int = 1) -> str:
    """Write `mean ± standard deviation` with so many decimals; a single value with so many at most."""
    if len(values) == 1:
        text = f"{values[0]:.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def decimals(images: int, runs: int = 1) -> int:
    """Decimals that a percentage of so many images bears: one image of 360 is 0.28 %, which shows in the first.

    The mean over several runs is of as many images as all of them together; two decimals are enough.
    """
    return min(MOST_DECIMALS, max(0, math.ceil(math.log10(images * runs / 100))))


def figures_in_words(row: Row, metric: str) -> str:
    """A row's figures, mean and spread, with the decimals that its test images bear."""
    runs = len(row.figures)
    return mean_and_spread(row.figures, decimals(row.images, runs) if metric == "accuracy" else 1)


def accuracies_in_words(row: Row) -> str:
    """A row's accuracies in %, likewise."""
    return mean_and_spread(row.accuracies, decimals(row.images, len(row.accuracies)))


def images_in_words(row: Row) -> str:
    """How many images each run's test measured; of how many, where it was a part of the test set."""
    return str(row.images) if row.of in (None, row.images) else f"{row.images} of {row.of}"


def median_latency(row: Row, size: str) -> float | None:
    """Milliseconds of a row for a batch of a size, such as `batch_1`; None where it was not measured."""
    known = [value for value in row.latency.get(size, ()) if value is not None]
    return statistics.median(known) if known else None


def batch_sizes(rows: Sequence[Row]) -> list[str]:
    """The sizes that anything was timed at, such as `batch_1`, the smallest first."""
    return sorted({size for row in rows for size in row.latency}, key=lambda size: (len(size), size))


def cells(comparison: Comparison) -> list[dict[str, str]]:
    """What each row shows, by column; a column that says nothing, or nothing new, is left out."""
    metric, sizes = comparison.metric, batch_sizes(comparison.rows)
    # How many images is said below the table where it is the same whole test set for all rows.
    same_images = len({row.images for row in comparison.rows}) == 1
    same_images &= all(row.of in (None, row.images) for row in comparison.rows)
    table = [_cells(row, metric, sizes, same_images) for row in comparison.rows]
    return [{column: row[column] for column in row if any(other[column] for other in table)} for row in table]


def _cells(row: Row, metric: str, sizes: Sequence[str], same_images: bool) -> dict[str, str]:
    agreement = [100 * value for value in row.agreement if value is not None]
    agrees = mean_and_spread(agreement, decimals(row.images, len(agreement))) + "%" if agreement else ""
    latency = {size: median_latency(row, size) for size in sizes}
    return {
        "stage": row.name,
        "published": "" if row.published is None else str(row.published),
        "ours": figures_in_words(row, metric),
        "n": str(len(row.figures)),
        "images": "" if same_images else images_in_words(row),
        "errors": "" if metric == "errors" else mean_and_spread(row.errors),
        "on these classes": mean_and_spread(row.class_errors) if row.class_errors else "",
        "agrees with teacher": agrees,
        "parameters": f"{row.parameters:,}",
        "MiB": f"{row.mebibytes:.3f}",
        "smaller by": "" if row.reduction is None else f"{row.reduction:.2%}",
        **{f"ms, {size.replace('_', ' ')}": "" if ms is None else f"{ms:.3f}" for size, ms in latency.items()},
        "seconds": f"{statistics.fmean(row.seconds):.1f}",
    }


def terminal_table(comparison: Comparison) -> Table:
    """The comparison, for a terminal."""
    title = f"{comparison.title} ({METRICS[comparison.metric]} on the test set)"
    table = Table(title=title, caption=comparison.source)
    shown = cells(comparison)
    for column in shown[0]:
        words = column in ("stage", "published")
        # A heading takes a line a word: a column is as wide as its figures.
        heading = column if words else column.replace(" ", "\n")
        longest = max(len(word) for row in shown for word in (column, *row[column].split())) if words else None
        table.add_column(heading, justify="left" if words else "right", min_width=longest, overflow="fold")
    for row in shown:
        table.add_row(*row.values())
    return table


def print_warnings(comparison: Comparison) -> None:
    """Print what a reader of the table has to know, on standard error."""
    for warning in comparison.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def run_lines(comparison: Comparison) -> list[dict[str, object]]:
    """A line a row and run, with the figures as `results.json` has them; what was not measured is None."""
    sizes = batch_sizes(comparison.rows)
    return [
        {
            "stage": row.name,
            "seed": seed,
            "published": row.published,
            "errors": row.errors[place],
            "images": row.images,
            "of": row.of,
            "accuracy": round(1 - row.errors[place] / row.images, 6),
            "class_errors": _at(row.class_errors, place, len(row.seeds)),
            "agreement": _at(row.agreement, place, len(row.seeds)),
            "parameters": row.parameters,
            "mebibytes": row.mebibytes,
            "reduction": row.reduction,
            **{f"ms_{size}": _at(row.latency.get(size, ()), place, len(row.seeds)) for size in sizes},
            "device": row.device,
            "threads": row.threads,
            "seconds": row.seconds[place],
        }
        for row in comparison.rows
        for place, seed in enumerate(row.seeds)
    ]


def _at(values: Sequence[float | None], place: int, runs: int) -> float | None:
    """A run's figure; where an older comparison kept those of fewer runs, nobody knows whose they are."""
    return values[place] if len(values) == runs else None


def as_csv(comparison: Comparison) -> str:
    """A line a row and run, under a line of headings; see `csv_cell` for names that look like formulas."""
    lines = run_lines(comparison)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([map(csv_cell, lines[0]), *(map(csv_cell, one.values()) for one in lines)])
    return text.getvalue()
