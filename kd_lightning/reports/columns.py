"""The columns of the results table, and the table in a terminal and as CSV."""

import csv
import io
import statistics
import sys
from collections.abc import Sequence
from functools import partial

from rich.console import Group
from rich.table import Table

from kd_lightning.errors import UserError
from kd_lightning.recipe import METRICS
from kd_lightning.reports.by_class import CLASS_FIGURES
from kd_lightning.reports.column import Column, decimals, mean_and_spread
from kd_lightning.reports.comparison import Comparison
from kd_lightning.reports.control_columns import MINUS, VERDICT, control_columns
from kd_lightning.reports.differences import LEVEL
from kd_lightning.reports.rows import SCORES, Row, RunFigures
from kd_lightning.utils.csv_text import csv_cell


def figures_in_words(row: Row) -> str:
    """Write mean and spread of a row's figures, with the decimals that its test images support."""
    return mean_and_spread(row.figures, decimals(row.images, len(row.runs)) if row.metric == "accuracy" else 1)


def figures_with_interval(row: Row) -> str:
    """Write mean and spread of a row's figures; of a single run, its 95 % interval over test images in parentheses."""
    text = figures_in_words(row)
    if len(row.runs) > 1:
        return text
    digits = decimals(row.images) if row.metric == "accuracy" else 0
    low, high = over_images(row)
    return f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def over_images(row: Row) -> tuple[float, float]:
    """Return Wilson's 95 % interval, over the choice of test images, of the figure of a row's first run.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference (JASA 22).
    """
    from statsmodels.stats.proportion import proportion_confint  # imported where it is used, for a fast start

    counted = row.errors[0] if row.metric == "errors" else row.images - row.errors[0]
    ends = proportion_confint(counted, row.images, alpha=1 - LEVEL, method="wilson")
    whole = 100 if row.metric == "accuracy" else row.images
    return whole * float(ends[0]), whole * float(ends[1])


def accuracies_in_words(row: Row) -> str:
    """Write mean and spread of a row's accuracies in %, with the decimals that its test images support."""
    return mean_and_spread(row.accuracies, decimals(row.images, len(row.accuracies)))


def images_in_words(row: Row) -> str:
    """Write the number of test images, and of how many if it is a part of the test set."""
    return str(row.images) if row.of in (None, row.images) else f"{row.images} of {row.of}"


def median_latency(row: Row, size: str) -> float | None:
    """Return the median milliseconds of a row for a batch size such as `batch_1`; None if not measured."""
    known = [value for value in row.latency.get(size, ()) if value is not None]
    return statistics.median(known) if known else None


def batch_sizes(rows: Sequence[Row]) -> list[str]:
    """Return the batch sizes that any row was timed at, such as `batch_1`, in ascending order."""
    return sorted({size for row in rows for size in row.latency}, key=lambda size: (len(size), size))


DEFAULT = "default"
"""Stands for the usual columns in `compare --columns`."""


def choose(rows: Sequence[Row], names: Sequence[str], in_csv: bool = False) -> list[Column]:
    """Return the named columns of a table, after that of the stage; without names, the usual ones.

    Each of `CLASS_FIGURES` names a column for each class.

    Raises:
        UserError: a name that is not one of a column of these rows.
    """
    every = [column for column in columns(rows) if column.key or not in_csv]
    named = {
        DEFAULT: [column for column in every if in_csv or not column.on_request],
        **{column.name: [column] for column in every},
        **{kind: its for kind in CLASS_FIGURES if (its := _class_columns(rows, kind))},
    }
    if unknown := [name for name in names if name not in named]:
        raise UserError(f"--columns: {', '.join(unknown)} found, some of {', '.join(named)} expected")
    chosen = [column for name in (["stage", *names] if names else [DEFAULT]) for column in named[name]]
    return list({column.name: column for column in chosen}.values())


def columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of a table of rows, in order."""
    sizes = batch_sizes(rows)
    # A note below the table has the number of images if it is the same whole test set for all rows.
    controlled = any(row.controls for row in rows)  # a table of methods: what they gain and cost, for like networks
    same_images = len({row.images for row in rows}) == 1 and all(row.of in (None, row.images) for row in rows)
    return [
        Column("stage", lambda row: row.name, "stage", lambda row, run: row.name),
        Column("seeds", lambda row: ", ".join(map(str, row.seeds)), "seed", lambda row, run: run.seed, on_request=True),
        Column(
            "published",
            lambda row: "" if row.published is None else str(row.published),
            "published",
            lambda row, run: row.published,
        ),
        Column("ours", figures_with_interval),
        Column("n", lambda row: str(len(row.runs))),
        *control_columns(rows),
        Column(
            "errors",
            lambda row: "" if row.metric == "errors" else mean_and_spread(row.errors),
            "errors",
            lambda row, run: run.errors,
            on_request=controlled,
        ),
        Column(
            "images",
            lambda row: "" if same_images else images_in_words(row),
            "images",
            lambda row, run: row.images,
        ),
        Column("of", lambda row: "" if row.of is None else str(row.of), "of", lambda row, run: row.of, on_request=True),
        Column(
            "accuracy",
            lambda row: f"{accuracies_in_words(row)}%",
            "accuracy",
            lambda row, run: round(1 - run.errors / row.images, 6),
            on_request=True,
        ),
        *(
            Column(
                words,
                partial(_score, name=name),
                name,
                partial(_score_of_run, name=name),
                on_request=not (controlled and name in OF_A_COMPARISON),
            )
            for name, words in SCORE_WORDS.items()
            if any(name in row.scores for row in rows)
        ),
        Column("on these classes", _class_errors, "class_errors", lambda row, run: run.class_errors),
        Column("agrees with teacher", _agreement, "agreement", lambda row, run: run.agreement),
        Column("parameters", lambda row: f"{row.parameters:,}", "parameters", lambda row, run: row.parameters),
        Column(
            "MiB",
            lambda row: f"{row.mebibytes:.3f}",
            "mebibytes",
            lambda row, run: row.mebibytes,
            on_request=controlled,
        ),
        Column(
            "smaller by",
            lambda row: "" if row.reduction is None else f"{row.reduction:.2%}",
            "reduction",
            lambda row, run: row.reduction,
            on_request=controlled,
        ),
        *(
            Column(
                f"ms, {size.replace('_', ' ')}",
                partial(_milliseconds, size=size),
                f"ms_{size}",
                partial(_milliseconds_of_run, size=size),
                on_request=controlled,
            )
            for size in sizes
        ),
        Column("peak MiB", _peak, "peak_mebibytes", lambda row, run: run.peak_mebibytes),
        Column("device", lambda row: row.device, "device", lambda row, run: row.device, on_request=True),
        Column("threads", lambda row: str(row.threads or ""), "threads", lambda row, run: row.threads, on_request=True),
        Column(
            "seconds",
            lambda row: f"{statistics.fmean(run.seconds for run in row.runs):.1f}",
            "seconds",
            lambda row, run: run.seconds,
        ),
    ]


def _class_errors(row: Row) -> str:
    known = [run.class_errors for run in row.runs if run.class_errors is not None]
    return mean_and_spread(known) if known else ""


def _peak(row: Row) -> str:
    known = [run.peak_mebibytes for run in row.runs if run.peak_mebibytes is not None]
    return f"{statistics.fmean(known):,.0f}" if known else ""


def _agreement(row: Row) -> str:
    values = [100 * value for value in row.agreement]
    return mean_and_spread(values, decimals(row.images, len(values))) + "%" if values else ""


SCORE_WORDS = {name: name.replace("_", " ").replace("top5", "top-5").replace("macro f1", "macro-F1") for name in SCORES}
"""Headings of `SCORES`."""

OF_A_COMPARISON = ("nll", "calibration_error")
"""Scores that a table has by default where stages are compared with controls."""

IN_PERCENT = ("macro_f1", "balanced_accuracy", "top5_accuracy")


def _score(row: Row, name: str) -> str:
    values = [value for value in row.scores.get(name, ()) if value is not None]
    if not values:
        return ""
    if name in IN_PERCENT:
        return mean_and_spread([100 * value for value in values], decimals(row.images, len(values))) + "%"
    return mean_and_spread(values, 4)


def _score_of_run(row: Row, run: RunFigures, name: str) -> float | None:
    return run.scores.get(name)


def _class_columns(rows: Sequence[Row], kind: str) -> list[Column]:
    """Return a column for each class with one of `CLASS_FIGURES`."""
    names = dict.fromkeys(name for row in rows for run in row.runs for name in run.by_class.get(kind, {}))

    def text(row: Row, name: str) -> str:
        values = [run.by_class[kind][name] for run in row.runs if name in run.by_class.get(kind, {})]
        digits = decimals(max(1, row.images // len(names)), max(1, len(values)))  # of a class's images, about
        return mean_and_spread([100 * value for value in values], digits) + "%" if values else ""

    def value(row: Row, run: RunFigures, name: str) -> float | None:
        return run.by_class.get(kind, {}).get(name)

    words = "F1" if kind == "f1" else kind
    return [
        Column(f"{words} {name}", partial(text, name=name), f"{kind}_{name}", partial(value, name=name))
        for name in names
    ]


def _milliseconds(row: Row, size: str) -> str:
    ms = median_latency(row, size)
    return "" if ms is None else f"{ms:.3f}"


def _milliseconds_of_run(row: Row, run: RunFigures, size: str) -> float | None:
    return run.latency.get(size)


def cells(comparison: Comparison, names: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return the text of each row by heading, without columns that are empty in all rows; see `choose`."""
    shown = choose(comparison.rows, names)
    table = [{column.heading: column.text(row) for column in shown} for row in comparison.rows]
    return [{heading: row[heading] for heading in row if any(other[heading] for other in table)} for row in table]


def terminal_table(comparison: Comparison, names: Sequence[str] = ()) -> Group:
    """Return the comparison as a table for a terminal, and its differences to controls as another; see `choose`."""
    title = f"{comparison.title} ({METRICS[comparison.metric]} on the test set)"
    shown = cells(comparison, names)
    apart = [heading for heading in shown[0] if heading.startswith((MINUS, VERDICT))] if not names else []
    tables = [_table([{name: row[name] for name in row if name not in apart} for row in shown], title)]
    compared = [{name: row[name] for name in ("stage", *apart)} for row in shown if any(row[name] for name in apart)]
    if compared:
        tables.append(_table(compared, "Differences to controls: mean and 95 % interval"))
    tables[-1].caption = comparison.source
    return Group(*tables)


def _table(rows: Sequence[dict[str, str]], title: str) -> Table:
    table = Table(title=title)
    for column in rows[0]:
        named, compared = column in ("stage", "published"), column.startswith((MINUS, VERDICT))
        # Each word of a heading takes a line, so that a column is as wide as its figures.
        heading = column if named else column.replace(" ", "\n")
        words = [word for row in rows for word in (column, *row[column].split())]
        table.add_column(
            heading,
            justify="left" if named or column.startswith(VERDICT) else "right",
            min_width=max(map(len, words)) if named else None,
            no_wrap=compared or (column == "stage" and not any(" " in row[column] for row in rows)),
            overflow="fold",
        )
    for row in rows:
        texts = [_in_two_lines(row[name]) if name.startswith((MINUS, VERDICT)) else row[name] for name in row]
        table.add_row(*texts)
    return table


def _in_two_lines(text: str) -> str:
    return text.replace(" (", "\n(").replace(" at n", "\nat n")


def print_warnings(comparison: Comparison) -> None:
    """Print the warnings of a comparison to standard error."""
    for warning in comparison.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def run_lines(comparison: Comparison, names: Sequence[str] = ()) -> list[dict[str, object]]:
    """Return the unrounded figures of each run by CSV heading; None for what was not measured. See `choose`."""
    keyed = choose(comparison.rows, names, in_csv=True)
    return [{column.key: column.value(row, run) for column in keyed} for row in comparison.rows for run in row.runs]


def as_csv(comparison: Comparison, names: Sequence[str] = ()) -> str:
    """Return a line for each row and run under a line of headings; see `choose`, and `csv_cell` for odd names."""
    lines = run_lines(comparison, names)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([map(csv_cell, lines[0]), *(map(csv_cell, one.values()) for one in lines)])
    return text.getvalue()
