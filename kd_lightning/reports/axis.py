"""Axes with round ticks, and labels that do not overlap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

EDGE = 4.0
"""Margin on either side, in % of a chart's width."""

LOG_RATIO = 10.0
"""Ratio of largest to smallest value from which an axis is logarithmic."""

MAX_TICKS = 6


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, linear or logarithmic."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float]) -> "Scale":
        """Return an axis for values, at least one, none below 0."""
        low, high = min(values), max(values)
        if low > 0 and high >= LOG_RATIO * low:
            return cls(low / (high / low) ** 0.04, high * (high / low) ** 0.04, log=True)
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(max(0.0, low - margin), high + margin, log=False)

    @classmethod
    def with_zero(cls, values: Sequence[float]) -> "Scale":
        """Return a linear axis for values of either sign, which has 0."""
        low, high = min(0.0, *values), max(0.0, *values)
        margin = 0.06 * (high - low) or 1.0
        return cls(low - margin, high + margin, log=False)

    def fraction(self, value: float) -> float:
        """Return the position of a value: 0 at `low`, 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def across(self, value: float, left: float = EDGE) -> float:
        """Return the position of a value in % of a chart's width, with a left margin of `left`."""
        return round(left + (100 - left - EDGE) * self.fraction(value), 2)

    def ticks(self) -> list[float]:
        """Return round values within the axis, at most six."""
        if not self.log:
            step = _round_up((self.high - self.low) / MAX_TICKS)
            return [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for leads in ((1, 2, 5), (1, 3), (1,)):
            found = [lead * 10.0**decade for decade in decades for lead in leads]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) <= MAX_TICKS:
                break
        return found


def _round_up(step: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(lead * power for lead in (1, 2, 5, 10) if lead * power >= step * (1 - 1e-9))


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions such that any two are `gap` apart between `low` and `high`, with the least sum of squares.

    If there is no room for all, they extend beyond `high`. Source: isotonic regression by pooling adjacent violators,
    Ayer et al. 1955, of positions minus the space of those before them.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    blocks: list[list[float]] = []
    for rank, i in enumerate(order):
        blocks.append([places[i] - rank * gap])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    levels = [fmean(block) for block in blocks for _ in block]
    highest = high - gap * (len(places) - 1)
    moved = list(places)
    for rank, i in enumerate(order):
        moved[i] = max(low, min(levels[rank], highest)) + rank * gap
    return moved
