"""The columns of the results table that compare stages with their controls."""

from collections.abc import Callable, Sequence

from kd_lightning.reports.column import Column, decimals
from kd_lightning.reports.differences import Difference, differences
from kd_lightning.reports.rows import Row, RunFigures

MINUS, VERDICT = "minus ", "against "
"""How the headings of columns of differences and of verdicts begin."""


def control_columns(rows: Sequence[Row]) -> list[Column]:
    """Return, for each control, the columns of the difference to it, of the verdict and, on request, of the p-value."""
    found = differences(rows)
    controls = dict.fromkeys(name for its in found.values() for name in its)
    return [column for control in controls for column in _columns_of(control, found)]


def _columns_of(control: str, found: dict[str, dict[str, Difference]]) -> list[Column]:
    def text(words: Callable[[Row, Difference], str]) -> Callable[[Row], str]:
        def of_row(row: Row) -> str:
            its = found.get(row.name, {}).get(control)
            return words(row, its) if its else ""

        return of_row

    def value(of: Callable[[Difference, int], object]) -> Callable[[Row, RunFigures], object]:
        def of_run(row: Row, run: RunFigures) -> object:
            its = found.get(row.name, {}).get(control)
            return of(its, run.seed) if its else None

        return of_run

    def part(name: str) -> Column:
        return Column(
            f"{MINUS}{control}, {name}",
            text(lambda row, its: number_in_words(getattr(its, name), row, its)),
            f"minus_{control}_{name}",
            value(lambda its, seed: getattr(its, name)),
            on_request=True,
        )

    return [
        Column(
            f"{MINUS}{control}",
            text(difference_in_words),
            f"minus_{control}",
            value(lambda its, seed: dict(zip(its.seeds, its.values, strict=True)).get(seed)),
        ),
        Column(
            f"{VERDICT}{control}",
            text(lambda row, its: its.verdict),
            f"verdict_{control}",
            value(lambda its, seed: its.verdict),
        ),
        Column(
            f"p, {control}",
            text(lambda row, its: "" if its.holm is None else f"{its.holm:.2g}"),
            f"p_{control}",
            value(lambda its, seed: its.holm),
            on_request=True,
        ),
        *map(part, ("mean", "low", "high")),
    ]


def difference_in_words(row: Row, difference: Difference) -> str:
    """Write a row's difference to a control with its interval, such as `+0.52 (+0.31 to +0.73)`."""
    mean, low, high = (number_in_words(getattr(difference, name), row, difference) for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})" if low else mean


def number_in_words(number: float | None, row: Row, difference: Difference) -> str:
    """Write a number in the unit of a row's difference with its sign, and the decimals that its images support."""
    digits = decimals(row.images, len(difference.values)) if row.metric == "accuracy" else 1
    return "" if number is None else f"{number:+.{digits}f}"
