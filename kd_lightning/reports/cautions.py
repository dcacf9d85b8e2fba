"""Warnings about figures of a comparison that can mislead."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from kd_lightning.recipe import Recipe
from kd_lightning.reports.results import with_few_images
from kd_lightning.reports.runs import Group

MIN_DIFFERENCE = 1.0
"""Accuracy, in %, by which a teacher has to be below a baseline for a warning."""

STANDARD_ERRORS = 3.0
"""Standard errors of the difference that it has to exceed as well."""


def cautions(recipe: Recipe, groups: Sequence[Group]) -> list[str]:
    """Return a line for each warning.

    Warnings are about a teacher that is worse than the student's network without a teacher, a student of another
    teacher than the table's, versions of the code with different figures, tests of a part of the test set or of the
    validation images, and classes with no or too few test images.

    Raises:
        One of `rows.DAMAGED`: results that do not follow their schema.
    """
    lines: list[str] = []
    for group in groups:
        teacher = _teacher_of(recipe, group, groups)
        if teacher is not None:
            lines += _of_its_teacher(recipe, group, teacher, groups)
    versions = {str(run.measured_on["code"]) for group in groups for run in group.runs if "code" in run.measured_on}
    if len(versions) > 1:
        lines.append(f"measured by versions of the code that give other figures: {', '.join(sorted(versions))}")
    for group in groups:
        run = group.runs[0]
        if run.is_partial:
            lines.append(
                f"{group.name}: {run.results['test']['images']} of {run.measured_on['of']} test images measured"
            )
    if validation := [group.name for group in groups if group.runs[0].measured_on.get("part") == "val"]:
        lines.append(f"measured on the validation images, as there is no test part: {', '.join(validation)}")
    few: dict[str, list[str]] = {}
    for group in groups:
        for run in group.runs:
            counts = [int(count) for count in run.results.get("class_images") or []]
            if line := with_few_images(counts, run.results.get("class_names") or []):
                few.setdefault(line, []).append(group.name)
    every = {group.name for group in groups}
    for line, names in few.items():
        lines.append(line if set(names) == every else f"{', '.join(dict.fromkeys(names))}: {line}")
        lines[-1] += " among the test images"
    return list(dict.fromkeys(lines))


def _teacher_of(recipe: Recipe, group: Group, groups: Sequence[Group]) -> Group | None:
    """Return the group of a student's teacher, by the recipe or by the path in the student's config."""
    stage = recipe.stages.get(group.stage)
    if stage is not None and stage.teacher:
        return next((other for other in groups if other.stage == stage.teacher), None)
    config = group.runs[0].results.get("config") or {}
    path = ((config.get("model") or {}).get("init_args") or {}).get("teacher_ckpt")
    if not isinstance(path, str):
        return None
    folders = [Path(path).resolve(), *Path(path).resolve().parents]
    return next((other for other in groups if any(run.folder.resolve() in folders for run in other.runs)), None)


def _of_its_teacher(recipe: Recipe, student: Group, teacher: Group, groups: Sequence[Group]) -> list[str]:
    lines: list[str] = []
    weights = {run.measured_on.get("weights") for run in teacher.runs}
    taught_by = {run.results["fit"].get("teacher") for run in student.runs} - {None}
    if None not in weights and not taught_by <= weights:
        again = f" (kd-lightning reproduce {recipe.name} trains it again)" if student.stage in recipe.stages else ""
        lines.append(f"{student.name}: its teacher had other weights than {teacher.name} of this table{again}")
    if recipe.stages and student.stage in recipe.stages:
        alone = [group for group in groups if group.stage in recipe.stages and not recipe.stages[group.stage].taught_by]
    else:
        alone = [group for group in groups if _teacher_of(recipe, group, groups) is None]
    for group in alone:
        if group is not teacher and _network(group) == _network(student) and _is_far_below(teacher, group):
            lines.append(
                f"{teacher.name}: {_accuracy(teacher):.1%} correct, far below {group.name} ({_accuracy(group):.1%}), "
                f"which is the network of {student.name} without a teacher; train the teacher longer or otherwise"
            )
    return lines


def _network(group: Group) -> tuple[str, int]:
    network = group.runs[0].results["network"]
    return str(network.get("name")), int(network["parameters"])


def _accuracy(group: Group) -> float:
    tests = [run.results["test"] for run in group.runs]
    return fmean(1 - int(test["errors"]) / int(test["images"]) for test in tests)


def _is_far_below(teacher: Group, baseline: Group) -> bool:
    low, high = _accuracy(teacher), _accuracy(baseline)
    images = min(int(run.results["test"]["images"]) for group in (teacher, baseline) for run in group.runs)
    error = math.sqrt((low * (1 - low) + high * (1 - high)) / images)
    return high - low > max(MIN_DIFFERENCE / 100, STANDARD_ERRORS * error)
