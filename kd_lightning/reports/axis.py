"""An axis and its round values; labels that do not lie on each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

EDGE = 4.0
"""% of a picture's width that stay empty on either side."""

WIDE = 10.0
"""The largest value over the smallest, from which an axis is logarithmic."""

MOST_TICKS = 6


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, between which all values lie."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float]) -> "Scale":
        """The axis that shows values, at least one of them, none below 0."""
        low, high = min(values), max(values)
        if low > 0 and high >= WIDE * low:
            return cls(low / (high / low) ** 0.04, high * (high / low) ** 0.04, log=True)
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(max(0.0, low - margin), high + margin, log=False)

    def fraction(self, value: float) -> float:
        """Where a value lies: 0 at `low`, 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def across(self, value: float, left: float = EDGE) -> float:
        """Where a value lies, in % of a picture's width, of which `left` stay empty before the first."""
        return round(left + (100 - left - EDGE) * self.fraction(value), 2)

    def ticks(self) -> list[float]:
        """Round values within the axis, two to six of them where there are as many."""
        if not self.log:
            step = _round_up((self.high - self.low) / MOST_TICKS)
            return [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for leads in ((1, 2, 5), (1, 3), (1,)):
            found = [lead * 10.0**decade for decade in decades for lead in leads]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) <= MOST_TICKS:
                break
        return found


def _round_up(step: float) -> float:
    """The next of 1, 2, 5, 10, … times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(lead * power for lead in (1, 2, 5, 10) if lead * power >= step * (1 - 1e-9))


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move places until any two are `gap` apart and all lie between `low` and `high`, by the least sum of squares.

    Where they do not all fit, they go on past `high`. Source: isotonic regression by pooling adjacent violators, Ayer
    et al. 1955, of places less the room that those before them take.
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
