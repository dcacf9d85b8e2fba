"""Figures of each class in the results of a run."""

import math
from typing import Any

from kd_lightning.reports.runs import MeasuredRun

CLASS_FIGURES = ("recall", "precision", "f1")
"""Figures of each class, in [0, 1]."""


def finite(value: Any) -> float | None:
    """Return a number, or None for None.

    Raises:
        ValueError: it is not finite.
    """
    number = None if value is None else float(value)
    if number is not None and not math.isfinite(number):
        raise ValueError(f"figure {number}")
    return number


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a dictionary, without those that are None; see `finite`."""
    return {str(name): number for name, value in values.items() if (number := finite(value)) is not None}


def class_figures_of(run: MeasuredRun) -> dict[str, dict[str, float]]:
    """Return each of `CLASS_FIGURES` of a run's test by class name; empty if they were not stored.

    Raises:
        One of `DAMAGED`: a figure, or the number of images, is missing for a class.
    """
    figures = run.results.get("class_figures")
    if not figures:
        return {}
    names = [str(name) for name in run.results["class_names"]]
    if len(names) != len(run.results["class_images"]):
        raise ValueError(f"{len(names)} class names, and other numbers of images")
    return {kind: numbers(dict(zip(names, figures[kind], strict=True))) for kind in CLASS_FIGURES}


def confusion_of(run: MeasuredRun) -> list[list[int]]:
    """Return the confusion matrix of a run's test, a row for each label; empty if it was not stored.

    Raises:
        One of `DAMAGED`: its size is not the number of class names.
    """
    counts, names = run.results.get("confusion", []), run.results.get("class_names", [])
    if counts and {len(counts), *map(len, counts)} != {len(names)}:
        raise ValueError(f"{len(names)} class names, and other counts")
    return [[int(count) for count in row] for row in counts]
