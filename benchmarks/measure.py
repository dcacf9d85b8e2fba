"""Measure several implementations of the same work in turn, and compare their figures."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

Contender = Callable[[], float]
"""A function that does the work once and returns its figure, such as seconds."""

OURS = "ours"
"""Name of the contender that the others are compared with."""


@dataclass(frozen=True)
class Benchmark:
    """Contenders for the same work, ready to run.

    Attributes:
        title: the work.
        unit: of the figures.
        contenders: by name; `OURS` is one of them.
        aims: by another contender's name, the largest ratio of our figure to its figure.
        our_aim: the largest figure of ours.
    """

    title: str
    unit: str
    contenders: Mapping[str, Contender]
    aims: Mapping[str, float] = field(default_factory=dict)
    our_aim: float | None = None


def measure_in_turn(
    contenders: Mapping[str, Contender], rounds: int, report: Callable[[str, float], None]
) -> dict[str, list[float]]:
    """Run every contender once a round, so that changes of the machine's speed affect all of them alike.

    Args:
        contenders: by name.
        rounds: runs of each.
        report: is called with a contender's name and figure after each run.

    Returns:
        Each contender's figures, one per round.
    """
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            figures[name].append(run())
            report(name, figures[name][-1])
    return figures


def median_ratio(ours: Iterable[float], other: Iterable[float]) -> float:
    """Compute the median over the rounds of our figure divided by another contender's."""
    return median(mine / theirs for mine, theirs in zip(ours, other, strict=True))
