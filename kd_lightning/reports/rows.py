"""Published figures beside ours: a row a stage, over all its seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kd_lightning.recipe import Stage
from kd_lightning.reports.runs import Group, MeasuredRun

RULES = {
    "as_trained": "as trained",
    "frequency": "bias by class frequency",
    "test_optimal": "bias chosen on the test set",
}

DAMAGED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What reading figures raises where a file does not hold what its schema says."""


@dataclass(frozen=True)
class Row:
    """A stage, or a stage under one rule of the bias fix, over all seeds that were run.

    Lists have one entry a run. Those of `agreement` (in [0, 1]) and `latency` (milliseconds, by batch size) hold None
    for a run of which it was not measured, and are empty where it was of none. `images` is how many each run's test
    measured, `of` how many the test set has, None where that was not kept.
    """

    name: str
    published: float | str | None
    seeds: list[int]
    figures: list[float]
    errors: list[int]
    images: int
    class_errors: list[int]
    agreement: list[float | None]
    parameters: int
    mebibytes: float
    reduction: float | None
    latency: dict[str, list[float | None]]
    device: str
    threads: int | None
    seconds: list[float]
    of: int | None = None

    @property
    def accuracies(self) -> list[float]:
        """In %, one a run."""
        return figures_of(self.errors, self.images, "accuracy")


def figures_of(errors: Sequence[int], images: int, metric: str) -> list[float]:
    """Errors of so many test images, as a recipe's metric has them."""
    return [
        {"errors": float(wrong), "right": float(images - wrong), "accuracy": 100 * (1 - wrong / images)}[metric]
        for wrong in errors
    ]


def rows_of(stage: Stage, group: Group, metric: str, teacher_mebibytes: float | None) -> list[Row]:
    """The row of a group of runs; or the rows, one a rule, where classes were left out of its training.

    Raises:
        One of `DAMAGED`: results that are not of their schema.
    """
    if not all("bias_correction" in run.results for run in group.runs):
        return [_row(group.name, stage.published, group.runs, None, metric, teacher_mebibytes)]
    return [
        _row(f"{group.name}, {words}", stage.corrected.get(rule), group.runs, rule, metric, teacher_mebibytes)
        for rule, words in RULES.items()
    ]


def _row(
    name: str,
    published: float | str | None,
    runs: list[MeasuredRun],
    rule: str | None,
    metric: str,
    teacher_mebibytes: float | None,
) -> Row:
    found = [run.results for run in runs]
    images = int(found[0]["test"]["images"])
    if any(int(results["test"]["images"]) != images for results in found):
        raise ValueError(f"{name}: tests of different numbers of images")
    of = runs[0].measured_on.get("of")
    part = [results["bias_correction"][rule] if rule else results["test"] for results in found]
    errors = [int(figures["errors"]) for figures in part]
    # Every rule of the bias fix has the same network; it was compared with its teacher as it was trained.
    agreement = [results["test"].get("agreement") if rule in (None, "as_trained") else None for results in found]
    timed = [results.get("latency", {}) for results in found]
    network = found[0]["network"]
    return Row(
        name=name,
        published=published,
        seeds=[place if run.seed is None else int(run.seed) for place, run in enumerate(runs)],
        figures=figures_of(errors, images, metric),
        errors=errors,
        images=images,
        class_errors=[int(figures["class_errors"]) for figures in part] if rule else [],
        agreement=measured(agreement),
        parameters=int(network["parameters"]),
        mebibytes=float(network["mebibytes"]),
        reduction=1 - float(network["mebibytes"]) / teacher_mebibytes if teacher_mebibytes else None,
        latency={size: measured([one.get(size) for one in timed]) for size in sorted(set().union(*timed))},
        device=str(found[0]["device"]),
        threads=found[0].get("threads"),
        seconds=[float(results["fit"]["seconds"]) for results in found],
        of=None if of is None else int(of),
    )


def check(row: Row) -> None:
    """See that a row's figures can be shown.

    Raises:
        ValueError: no image, errors of more than all images or of less than none, or figures that no axis has.
    """
    if row.images < 1 or not all(0 <= wrong <= row.images for wrong in row.errors):
        raise ValueError(f"{row.name}: errors {row.errors} of {row.images} images")
    if row.of is not None and row.of < row.images:
        raise ValueError(f"{row.name}: {row.images} images of {row.of}")
    if not all(0 <= figure < math.inf for figure in row.figures):
        raise ValueError(f"{row.name}: figures {row.figures}")
    if isinstance(row.published, int | float) and not 0 <= float(row.published) < math.inf:
        raise ValueError(f"{row.name}: published {row.published}")


def measured(values: Sequence[Any]) -> list[float | None]:
    """Figures as they are; none where not one was measured.

    Raises:
        One of `DAMAGED`: one that is no number, or not finite.
    """
    kept = [None if value is None else float(value) for value in values]
    if not all(value is None or math.isfinite(value) for value in kept):
        raise ValueError(f"figures {kept}")
    return kept if any(value is not None for value in kept) else []


def confusion_of(run: MeasuredRun) -> list[list[int]]:
    """The counts of a run's test, a row a label; empty of a run that kept none.

    Raises:
        One of `DAMAGED`: they are not as many as the class names ask for.
    """
    counts, names = run.results.get("confusion", []), run.results.get("class_names", [])
    if counts and {len(counts), *map(len, counts)} != {len(names)}:
        raise ValueError(f"{len(names)} class names, and other counts")
    return [[int(count) for count in row] for row in counts]
