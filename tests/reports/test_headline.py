"""The sentence that begins a report."""

from dataclasses import replace
from typing import Any

import pytest

from kd_lightning.reports.comparison import Comparison, merge
from kd_lightning.reports.headline import headline
from kd_lightning.reports.rows import Row
from tests.reports.test_differences import row


def rows(metric: str = "errors", teacher: int = 100, taught: tuple[int, ...] = (180, 182, 178)) -> list[Row]:
    """A teacher of 100,000 parameters, a student alone, and taught; of 1,000 images."""
    about: dict[str, Any] = {"metric": metric, "images": 10_000, "of": 10_000}
    return [
        replace(row("teacher", [teacher], **about), parameters=100_000),
        replace(row("baseline", [200, 202, 201], **about), parameters=1_000),
        replace(row("distill", list(taught), ("baseline",), **about), parameters=1_000, teacher="teacher"),
    ]


def table(of: list[Row]) -> Comparison:
    return Comparison("T", "", of[0].metric, "", {}, {}, of)


def test_the_gain_is_a_part_of_the_gap_to_the_teacher() -> None:
    # Differences of -20, -20 and -23: mean -21, s = 1.7321, standard error 1; t for 95 % and 2 degrees of freedom is
    # 4.3027. The gap is 201 - 100 = 101: 21 / 101 = 20.8 %, 16.6973 / 101 = 16.5 % and 25.3027 / 101 = 25.1 %.
    assert headline(table(rows())) == (
        "Alone 201.0 errors (baseline), taught 180.0 errors (distill), its teacher 100 errors (teacher): 21 % of the "
        "gap closed (95 % interval 17 to 25 %) by a network 100 times smaller than its teacher; better than alone."
    )
    assert headline(table(rows("accuracy"))) == (
        "Alone 97.99 % (baseline), taught 98.20 % (distill), its teacher 99.00 % (teacher): 21 % of the gap "
        "closed (95 % interval 17 to 25 %) by a network 100 times smaller than its teacher; better than alone."
    )
    assert headline(table(rows("right"))).startswith(
        "Alone 9,799.0 of 10,000 right (baseline), taught 9,820.0 of 10,000"
    )


def test_a_student_that_gains_nothing_is_said_to() -> None:
    assert headline(table(rows(taught=(210, 190, 203)))).endswith("; not distinguishable at n = 3.")
    assert "-20 % of the gap closed" in headline(table(rows(taught=(220, 222, 221))))
    assert ": its teacher is no better than the student alone; better than alone." in headline(table(rows(teacher=300)))


def test_the_best_of_several_students_is_told_of() -> None:
    three = [*rows(), replace(rows(taught=(170, 171, 172))[2], name="best")]
    assert "taught 171.0 errors (best)" in headline(table(three))
    weak = replace(rows()[1], name="weak", runs=[run._replace(errors=900) for run in rows()[1].runs])
    assert "Alone 201.0 errors (baseline)" in headline(
        table([weak, *three[:3], replace(three[3], controls=("weak", "baseline"))])
    )
    both = merge({"a": table(rows()), "b": table(three)}, "")
    assert "taught 171.0 errors (b best), its teacher 100 errors (b teacher)" in headline(both)


@pytest.mark.parametrize("left_out", ["teacher", "baseline", "distill"])
def test_without_one_of_the_three_there_is_none(left_out: str) -> None:
    assert headline(table([each for each in rows() if each.name != left_out])) == ""
