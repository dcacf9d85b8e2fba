"""The result of a comparison in one sentence: what a student gains from its teacher, beside its control."""

from statistics import fmean
from typing import NamedTuple

from kd_lightning.reports.column import decimals
from kd_lightning.reports.comparison import Comparison
from kd_lightning.reports.differences import Difference, differences
from kd_lightning.reports.rows import Row


class _Story(NamedTuple):
    """A distilled student, its control, which has no teacher, their difference, and the teacher."""

    student: Row
    control: Row
    difference: Difference
    teacher: Row


def headline(comparison: Comparison) -> str:
    """Return a sentence on the best distilled student and the best of its controls without a teacher; empty without.

    The part of the gap that is closed is the student's gain over its control in relation to the teacher's; the interval
    is that of the gain.
    """
    stories = _stories(comparison)
    if not stories:
        return ""
    student, control, difference, teacher = max(
        stories, key=lambda story: (fmean(story.student.accuracies), fmean(story.control.accuracies))
    )
    figures = ", ".join(
        (
            f"alone {_figure(control)} ({control.name})",
            f"taught {_figure(student)} ({student.name})",
            f"its teacher {_figure(teacher)} ({teacher.name})",
        )
    )
    verdict = f"{difference.verdict} than alone" if difference.verdict in ("better", "worse") else difference.verdict
    return f"{figures[0].upper()}{figures[1:]}: {_closed(student, control, difference, teacher)}; {verdict}."


def _closed(student: Row, control: Row, difference: Difference, teacher: Row) -> str:
    """Say which part of the gap between control and teacher a student closes, and how small it is."""
    if fmean(teacher.accuracies) <= fmean(control.accuracies):
        return "its teacher is no better than the student alone"
    gap = fmean(teacher.figures) - fmean(control.figures)
    closed = f"{100 * difference.mean / gap:.0f} % of the gap closed"
    if difference.low is not None and difference.high is not None:
        low, high = sorted((100 * difference.low / gap, 100 * difference.high / gap))
        closed += f" (95 % interval {low:.0f} to {high:.0f} %)"
    smaller = teacher.parameters / student.parameters
    return f"{closed} by a network {smaller:.{0 if smaller >= 10 else 1}f} times smaller than its teacher"


def _stories(comparison: Comparison) -> list[_Story]:
    by_name = {row.name: row for row in comparison.rows}
    found = differences(comparison.rows)
    return [
        _Story(row, by_name[name], difference, by_name[row.teacher])
        for row in comparison.rows
        if row.teacher in by_name
        for name, difference in found.get(row.name, {}).items()
        if by_name[name].teacher is None
    ]


def _figure(row: Row) -> str:
    mean = fmean(row.figures)
    if row.metric == "accuracy":
        return f"{mean:.{decimals(row.images, len(row.runs))}f} %"
    digits = 1 if len(row.runs) > 1 else 0
    return f"{mean:,.{digits}f} {'errors' if row.metric == 'errors' else f'of {row.images:,} right'}"
