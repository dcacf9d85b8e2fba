"""A column of the results table, and how its numbers are written."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kd_lightning.reports.rows import Row, RunFigures

MAX_DECIMALS = 2
"""Decimals of a percentage."""


def mean_and_spread(values: Sequence[float], digits: int = 1) -> str:
    """Write `mean ± standard deviation` with `digits` decimals; a single value without trailing zeros."""
    if len(values) == 1:
        text = f"{values[0]:.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def decimals(images: int, runs: int = 1) -> int:
    """Return the decimals that a percentage of a number of images supports: one of 360 images is 0.28 %, one decimal.

    The mean over several runs counts the images of all of them; two decimals are enough.
    """
    return min(MAX_DECIMALS, max(0, math.ceil(math.log10(images * runs / 100))))


@dataclass(frozen=True)
class Column:
    """A column of the results table.

    Attributes:
        heading: in the terminal and the report.
        text: a row's cell in the terminal and the report.
        key: heading in CSV; empty for a column that CSV does not have.
        value: of one run in CSV.
        on_request: whether terminal and report have it only if it is named.
    """

    heading: str
    text: Callable[[Row], str]
    key: str = ""
    value: Callable[[Row, RunFigures], object] = lambda row, run: None
    on_request: bool = False

    @property
    def name(self) -> str:
        """Name in `compare --columns`."""
        return self.key or self.heading
