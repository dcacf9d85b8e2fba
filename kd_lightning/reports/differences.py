"""Paired differences between stages and their controls: runs of the same seed, with interval, p-value and verdict."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from kd_lightning.recipe import Recipe
from kd_lightning.reports.rows import Row
from kd_lightning.reports.runs import Group

LEVEL = 0.95
"""Confidence level of an interval."""

ALPHA = 0.05
"""Chance of any false verdict in a table where no stage differs from its controls."""


class Difference(NamedTuple):
    """A row minus its control, in the unit of their figures.

    Attributes:
        control: name of the control's row.
        seeds: that both have.
        values: a difference for each of these seeds, whose runs share their start.
        low: lower end of the 95 % interval of the mean, by Student's t over seeds; None with fewer than two seeds.
        high: upper end.
        p: two-sided p-value of the paired t-test; None with fewer than two seeds.
        holm: the same, corrected for all differences of the table.
        verdict: `better`, `worse` or `not distinguishable at n = …`, by the corrected p-value.
    """

    control: str
    seeds: list[int]
    values: list[float]
    low: float | None
    high: float | None
    p: float | None
    holm: float | None
    verdict: str

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return fmean(self.values)

    def record(self) -> dict[str, Any]:
        """Return the difference as `comparison.json` stores it."""
        return {**self._asdict(), "mean": self.mean}


def add_controls(recipe: Recipe, groups: Sequence[Group], rows: Sequence[Sequence[Row]]) -> tuple[list[Row], list[str]]:
    """Name the controls of each row.

    Args:
        recipe: names the controls of its stages.
        groups: of runs.
        rows: of each group.

    Returns:
        All rows, and a line for each control that could not be compared.
    """
    first: dict[str, Row] = {}
    for group, its in zip(groups, rows, strict=True):
        first.setdefault(group.stage, its[0])
    found: list[Row] = []
    lines: list[str] = []
    for group, its in zip(groups, rows, strict=True):
        for row in its:
            controls: list[str] = []
            for name in recipe.controls_of(group.stage):
                control = first.get(name)
                if control is None:
                    lines.append(f"{name}: a control that has no runs (kd-lightning reproduce trains it)")
                elif control.images != row.images:
                    lines.append(f"{row.name}: {row.images} test images, its control {name} has {control.images}")
                elif not set(control.seeds) & set(row.seeds):
                    lines.append(f"{row.name}: no seed in common with its control {name}")
                else:
                    controls.append(control.name)
            found.append(row.with_controls(controls))
    return found, list(dict.fromkeys(lines))


def differences(rows: Sequence[Row]) -> dict[str, dict[str, Difference]]:
    """Compare each row with its controls.

    P-values are corrected by Holm's step-down method over all differences of the rows, so that the chance of any false
    verdict is at most 5 % (Holm 1979, A simple sequentially rejective multiple test procedure).

    Returns:
        The differences by name of the row and of the control.
    """
    by_name = {row.name: row for row in rows}
    pairs = [(row, by_name[name]) for row in rows for name in row.controls if name in by_name]
    paired = [_paired(row, control) for row, control in pairs]
    tests = [_t_test(list(values.values())) for values in paired]
    known = [test[2] for test in tests if test is not None]
    corrected = iter(holm(known))
    found: dict[str, dict[str, Difference]] = {}
    for (row, control), values, test in zip(pairs, paired, tests, strict=True):
        if not values:
            continue
        low, high, p = test or (None, None, None)
        by_holm = None if test is None else next(corrected)
        gain = fmean(values.values()) * (-1 if row.metric == "errors" else 1)
        verdict = f"not distinguishable at n = {len(values)}"
        if by_holm is not None and by_holm < ALPHA:
            verdict = "better" if gain > 0 else "worse"
        found.setdefault(row.name, {})[control.name] = Difference(
            control.name, list(values), list(values.values()), low, high, p, by_holm, verdict
        )
    return found


def _paired(row: Row, control: Row) -> dict[int, float]:
    """Return the differences of the runs of the same seed, by seed."""
    theirs = dict(zip(control.seeds, control.figures, strict=True))
    ours = dict(zip(row.seeds, row.figures, strict=True))
    return {seed: figure - theirs[seed] for seed, figure in ours.items() if seed in theirs}


def _t_test(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Return interval and p-value of a mean, by Student's t; None for fewer than two values.

    Equal values have no spread to judge their mean by: their p-value is 1.
    """
    if len(values) < 2:
        return None
    mean = fmean(values)
    if all(math.isclose(value, mean, rel_tol=1e-9, abs_tol=1e-9) for value in values):
        return mean, mean, 1.0
    from scipy.stats import ttest_1samp  # imported where it is used, for a fast start of commands

    result = ttest_1samp(values, 0.0)
    low, high = result.confidence_interval(LEVEL)
    return float(low), float(high), float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's method, in the same order."""
    if len(p_values) < 2:
        return list(p_values)
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, alpha=ALPHA, method="holm")[1]]
