"""Comparisons: tables made from runs, read from a `comparison.json`, or merged."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kd_lightning.errors import UserError, one_line
from kd_lightning.recipe import METRICS, Recipe
from kd_lightning.reports.by_class import confusion_of
from kd_lightning.reports.cautions import cautions
from kd_lightning.reports.differences import add_controls, differences
from kd_lightning.reports.provenance import provenance_of
from kd_lightning.reports.rows import DAMAGED, Row, check, row_from, rows_of
from kd_lightning.reports.runs import MAX_BYTES, Group, MeasuredRun, by_settings, comparable, natural, read_run
from kd_lightning.stage import Stage


@dataclass(frozen=True)
class Comparison:
    """A table of results.

    Attributes:
        title: title of the table.
        source: source of the published figures.
        metric: of the figures, one of `METRICS`.
        command: command that made the comparison.
        versions: of the packages that figures depend on.
        machine: that the figures were measured on.
        rows: at least one.
        warnings: about the figures, a line each.
        groups: the runs of the rows; empty if unknown.
    """

    title: str
    source: str
    metric: str
    command: str
    versions: dict[str, Any]
    machine: dict[str, Any]
    rows: list[Row]
    warnings: list[str] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Return the content of `comparison.json`: all but the groups, whose runs have files of their own."""
        own = {name: value for name, value in vars(self).items() if name != "groups"}
        its = {name: [each.record() for each in by.values()] for name, by in differences(self.rows).items()}
        rows = [{**row.record(), **({"differences": its[row.name]} if row.name in its else {})} for row in self.rows]
        return {**own, "rows": rows}


def read_runs(folders: Sequence[Path]) -> tuple[list[MeasuredRun], dict[Path, str]]:
    """Read runs; return those that can be compared, and the reason for each of the others."""
    runs: list[MeasuredRun] = []
    left_out: dict[Path, str] = {}
    for folder in folders:
        run = read_run(folder)
        try:
            if isinstance(run, MeasuredRun):
                alone = Group("", "", by_settings([run])[0])
                for row in compare_groups(Recipe("", {}, ""), [alone], "").rows:
                    check(row)
                confusion_of(run)
                provenance_of(alone)
                cautions(Recipe("", {}, ""), [alone])
        except DAMAGED:
            run = "results.json is damaged"
        if isinstance(run, MeasuredRun):
            runs.append(run)
        else:
            left_out[folder] = run
    return runs, left_out


def collect(recipe: Recipe, runs: Path, command: str, settings: dict[str, str] | None = None) -> Comparison:
    """Compare the runs of a recipe; stages without a tested run are left out.

    Only runs of a stage that differ in their seed alone form a row. Seeds of an earlier call with other options, data
    or teacher are left out.

    Args:
        recipe: the recipe.
        runs: folder of `<recipe>/<stage>/seed_<n>/`.
        command: command that makes the comparison.
        settings: settings of the stages that were just run (see `MeasuredRun`).
    """
    found = [read_runs(sorted((runs / recipe.name / stage).glob("seed_*"), key=natural))[0] for stage in recipe.stages]
    _, left_out = comparable([run for its in found for run in its])
    groups: list[Group] = []
    for stage, its in zip(recipe.stages, found, strict=True):
        kinds = by_settings([run for run in its if run.folder not in left_out])
        wanted = (settings or {}).get(stage)
        chosen = next((kind for kind in kinds if kind[0].settings == wanted), kinds[0] if kinds else [])
        others = (run.folder for kind in kinds if kind is not chosen for run in kind)
        left_out |= dict.fromkeys(others, f"of other options, data, teacher or test than {stage} in this table")
        if chosen:
            groups.append(Group(stage, stage, chosen))
    comparison = compare_groups(recipe, groups, command)
    lines = [f"left out: {folder} ({reason})" for folder, reason in left_out.items()]
    return replace(comparison, warnings=comparison.warnings + lines)


def compare_groups(recipe: Recipe, groups: list[Group], command: str) -> Comparison:
    """Compare groups of runs; stages that the recipe does not have get no published figure."""
    rows: list[list[Row]] = []
    sizes: dict[str, float] = {}
    for group in groups:
        stage = recipe.stages.get(group.stage, Stage(group.stage, {}))
        sizes.setdefault(group.stage, float(group.runs[0].results["network"]["mebibytes"]))
        its = rows_of(stage, group, recipe.metric, sizes.get(stage.teacher or ""))
        teacher = next((other.name for other in groups if other.stage == stage.teacher), None)
        rows.append([replace(row, teacher=teacher) for row in its])
    compared, not_compared = add_controls(recipe, groups, rows)
    results = [run.results for group in groups for run in group.runs]
    return Comparison(
        title=recipe.title,
        source=recipe.source,
        metric=recipe.metric,
        command=command,
        versions=_together([one.get("versions", {}) for one in results]),
        machine=_together([one.get("machine", {}) for one in results]),
        rows=compared,
        warnings=[*cautions(recipe, groups), *not_compared],
        groups=groups,
    )


def _together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge dictionaries by name; different values are joined by commas."""
    values: dict[str, dict[str, Any]] = {}
    for part in parts:
        for name, value in part.items():
            values.setdefault(name, {})[str(value)] = value
    return {name: next(iter(its.values())) if len(its) == 1 else ", ".join(its) for name, its in values.items()}


def read_comparison(file: Path) -> Comparison:
    """Read a `comparison.json`.

    Raises:
        UserError: it cannot be read, or does not follow its schema.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"{file.stat().st_size / 2**20:.1f} MiB, at most {MAX_BYTES / 2**20:.0f} are read")
        record = json.loads(file.read_text(encoding="utf-8"))
        rows = [row_from(row, record["metric"]) for row in record["rows"]]
        if record["metric"] not in METRICS or not rows:
            raise ValueError(f"metric {record['metric']}, {len(rows)} rows")
        return Comparison(
            title=str(record["title"]),
            source=str(record["source"]),
            metric=record["metric"],
            command=str(record["command"]),
            versions=dict(record["versions"]),
            machine=dict(record["machine"]),
            rows=rows,
            warnings=[str(line) for line in record.get("warnings", [])],
        )
    except (OSError, *DAMAGED) as error:
        raise UserError(f"{file}: not a comparison ({one_line(error)}), a comparison.json expected") from error


def merge(parts: dict[str, Comparison], command: str) -> Comparison:
    """Merge comparisons by name; if their metrics differ, all figures become accuracies."""
    several = len(parts) > 1
    metrics = {part.metric for part in parts.values()}
    metric = metrics.pop() if len(metrics) == 1 else "accuracy"
    rows, groups, warnings = [], [], []
    for name, part in parts.items():
        warnings += [f"{name}: {line}" if several else line for line in part.warnings]
        rows += [_renamed(row, f"{name} " if several else "", metric) for row in part.rows]
        groups += [replace(group, name=f"{name} {group.name}") if several else group for group in part.groups]
    return Comparison(
        title=" · ".join(part.title for part in parts.values()),
        source="; ".join(dict.fromkeys(part.source for part in parts.values())),
        metric=metric,
        command=command,
        versions=_together([part.versions for part in parts.values()]),
        machine=_together([part.machine for part in parts.values()]),
        rows=rows,
        warnings=warnings,
        groups=groups,
    )


def _renamed(row: Row, prefix: str, metric: str) -> Row:
    controls = tuple(prefix + name for name in row.controls)
    row = replace(row, name=prefix + row.name, controls=controls, teacher=row.teacher and prefix + row.teacher)
    if row.metric == metric:
        return row
    published = row.published
    if isinstance(published, int | float):
        right = row.images - published if row.metric == "errors" else published
        published = round(100 * right / row.images, 4)
    elif published is not None:
        published = f"{METRICS[row.metric]}: {published}"
    return replace(row, published=published, metric=metric)
