"""Paired differences between stages and their controls: runs of the same seed, with interval, p-value and verdict."""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from kd_lightning.recipe import Recipe
from kd_lightning.reports.right_images import unpack
from kd_lightning.reports.rows import Row
from kd_lightning.reports.runs import Group

LEVEL = 0.95
"""Confidence level of an interval."""

ALPHA = 0.05
"""Chance of any false verdict in a table where no stage differs from its controls."""

SMALL_TEST_SET = 2000
"""Number of test images below which an interval also covers the choice of the images."""

RESAMPLES, CHUNK = 10_000, 500
"""Resamples of a bootstrap, and how many are drawn at once."""


class Difference(NamedTuple):
    """A row minus its control, in the unit of their figures.

    Attributes:
        control: name of the control's row.
        seeds: that both have.
        values: a difference for each of these seeds, whose runs share their start.
        low: lower end of the 95 % interval of the mean; None with fewer than two seeds.
        high: upper end.
        p: two-sided p-value that belongs to the interval; None with fewer than two seeds.
        holm: the same, corrected for all differences of the table.
        verdict: `better`, `worse` or `not distinguishable at n = …`, by the corrected p-value.
        method: of interval and p-value: `t`, Student's over seeds, or `bootstrap` over seeds and test images, where
            these are fewer than `SMALL_TEST_SET` and it is known which of them each run classified correctly.
    """

    control: str
    seeds: list[int]
    values: list[float]
    low: float | None
    high: float | None
    p: float | None
    holm: float | None
    verdict: str
    method: str

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
    bits = [_bits(row, control) for row, control in pairs]
    tests = [
        _t_test(list(values.values())) if its is None else _bootstrap(its, row.images, row.metric)
        for (row, _), values, its in zip(pairs, paired, bits, strict=True)
    ]
    known = [test[2] for test in tests if test is not None]
    corrected = iter(holm(known))
    found: dict[str, dict[str, Difference]] = {}
    for (row, control), values, its, test in zip(pairs, paired, bits, tests, strict=True):
        if not values:
            continue
        low, high, p = test or (None, None, None)
        by_holm = None if test is None else next(corrected)
        gain = fmean(values.values()) * (-1 if row.metric == "errors" else 1)
        verdict = f"not distinguishable at n = {len(values)}"
        if by_holm is not None and by_holm < ALPHA:
            verdict = "better" if gain > 0 else "worse"
        found.setdefault(row.name, {})[control.name] = Difference(
            control.name,
            list(values),
            list(values.values()),
            low,
            high,
            p,
            by_holm,
            verdict,
            "t" if its is None else "bootstrap",
        )
    return found


def _paired(row: Row, control: Row) -> dict[int, float]:
    """Return the differences of the runs of the same seed, by seed."""
    theirs = dict(zip(control.seeds, control.figures, strict=True))
    ours = dict(zip(row.seeds, row.figures, strict=True))
    return {seed: figure - theirs[seed] for seed, figure in ours.items() if seed in theirs}


def _bits(row: Row, control: Row) -> tuple[tuple[str, str], ...] | None:
    """Return, where the test set is small, the bits of both rows' runs of each seed that both have; see `Difference`.

    None for a large test set, for fewer than two seeds, or if it is not known which images were right.
    """
    ours, theirs = ({run.seed: run.right_images for run in each.runs} for each in (row, control))
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    known = tuple((first, second) for first, second in pairs if first is not None and second is not None)
    return known if row.images < SMALL_TEST_SET and len(known) == len(pairs) > 1 else None


@lru_cache(maxsize=1024)  # a table, a report and its charts ask for the same differences
def _bootstrap(bits: tuple[tuple[str, str], ...], images: int, metric: str) -> tuple[float, float, float]:
    """Return interval and p-value of the mean difference, by a bootstrap over seeds and images.

    Seeds and images are drawn with replacement, independently of each other; the interval is that of the percentiles. A
    few seeds vary less when they are drawn from themselves than new seeds would, by (n - 1) / n in variance; their
    deviations from the mean are enlarged to make up for it.

    Args:
        bits: of both rows, for each seed.
        images: in the test set.
        metric: of the rows, in whose unit the interval is.

    Source: Owen 2007, The pigeonhole bootstrap (Annals of Applied Statistics 1), for the crossed draws.
    """
    unit = {"accuracy": 100 / images, "errors": -1.0, "right": 1.0}[metric]
    by_image = unit * np.stack([unpack(ours, images).astype(float) - unpack(theirs, images) for ours, theirs in bits])
    seeds = len(by_image)
    mean = by_image.mean(axis=0)
    enlarged = mean + (by_image - mean) * (seeds / (seeds - 1)) ** 0.5
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(0, RESAMPLES, CHUNK):
        of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=CHUNK) / seeds
        of_images = generator.multinomial(images, np.full(images, 1 / images), size=CHUNK)
        drawn.append(((of_seeds @ enlarged) * of_images).sum(axis=1))
    means = np.concatenate(drawn)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    beyond = min((means <= 0).sum(), (means >= 0).sum())
    return float(low), float(high), min(1.0, 2 * (int(beyond) + 1) / (len(means) + 1))


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
