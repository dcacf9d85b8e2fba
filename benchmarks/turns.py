"""Contenders timed in turn, and what their figures say."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

Turn = Callable[[], float]
"""Does a contender's work once, and returns its figure."""

OURS = "ours"
"""The contender that the others are compared with."""


@dataclass(frozen=True)
class Benchmark:
    """Contenders for the same work, what they are made for done already.

    Attributes:
        title: the work.
        unit: of the figures.
        turns: by contender; `OURS` is one of them.
        at_most: by another contender, how much of its figure ours is meant to take.
        ours_at_most: the figure that ours is meant to keep to.
    """

    title: str
    unit: str
    turns: Mapping[str, Turn]
    at_most: Mapping[str, float] = field(default_factory=dict)
    ours_at_most: float | None = None


def take_turns(turns: Mapping[str, Turn], rounds: int, told: Callable[[str, float], None]) -> dict[str, list[float]]:
    """Let every contender have its turn, round after round, so that a machine's moods meet all of them alike.

    Args:
        turns: by contender.
        rounds: turns of each.
        told: is called with each contender's figure as soon as there is one.

    Returns:
        Each contender's figures, in the order of the rounds.
    """
    figures: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            figures[name].append(turn())
            told(name, figures[name][-1])
    return figures


def share(ours: Iterable[float], other: Iterable[float]) -> float:
    """How much of another's figure ours is: the median over the rounds, each of which compares neighbours."""
    return median(mine / its for mine, its in zip(ours, other, strict=True))
