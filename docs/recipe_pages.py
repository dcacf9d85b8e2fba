"""Write a page for each recipe from its `recipe.yaml`, the headers of its stages, and its measured figures."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

from kd_lightning.recipe import METRICS, Recipe, find_recipe
from kd_lightning.reports.column import mean_and_spread
from kd_lightning.stage import Stage

KEYS = re.compile(r"(Source|Command|Published figure|Known deviation): ")
"""How the lines of a stage's header begin."""

NO_BREAK = "\N{NO-BREAK SPACE}"

ABSENT = "-"
"""The cell of a figure that was not published or not measured."""


def write_pages(root: Path, folder: Path) -> None:
    """Write a page into `folder` for every recipe of the repository `root`, and remove other pages there."""
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.md"):
        stale.unlink()
    for file in sorted((root / "configs").glob("*/recipe.yaml")):
        recipe = find_recipe(file.parent.name, root / "configs")
        measured = root / "lightning_logs" / "measured" / f"{recipe.name}.json"
        text = page(recipe, json.loads(measured.read_text()) if measured.is_file() else None)
        (folder / f"{recipe.name}.md").write_text(text)


def page(recipe: Recipe, measured: dict[str, Any] | None) -> str:
    """Write one recipe in MyST Markdown.

    Args:
        recipe: its published figures and its stages.
        measured: its stored `comparison.json`; None if it was not measured.
    """
    parts = [f"# `{recipe.name}`", f"{recipe.title}. Source: {recipe.source}."]
    parts.append(f"```sh\nkd-lightning reproduce {recipe.name}\n```")
    if measured:
        parts += ["## Figures", _figures(recipe, measured), _how_measured(measured)]
        if any("differences" in row for row in measured["rows"]):
            parts += ["## Differences to controls", _differences(measured)]
    parts += ["## Stages", *(_stage(stage) for stage in recipe.stages.values())]
    return "\n\n".join(parts) + "\n"


def _figures(recipe: Recipe, measured: dict[str, Any]) -> str:
    """Write the table of published figures and ours."""
    digits = 2 if measured["metric"] == "accuracy" else 1
    head = ["stage", "published", f"ours: {METRICS[recipe.metric]}", "seeds", "agrees with teacher", "parameters"]
    rows = [[*head, "MiB", "ms for 1 image / for 128"], ["---"] * (len(head) + 2)]
    for row in measured["rows"]:
        agreement = f"{100 * statistics.fmean(row['agreement']):.1f} %" if row.get("agreement") else ABSENT
        latency = row.get("latency", {})  # the first records have none
        times = [statistics.median(latency.get(f"batch_{size}") or [0]) for size in (1, 128)]
        rows.append(
            [
                f"`{row['name']}`",
                str(row["published"] or ABSENT),
                f"**{mean_and_spread(row['figures'], digits)}**".replace(" ", NO_BREAK),
                str(len(row["figures"])),
                agreement,
                f"{row['parameters']:,}",
                f"{row['mebibytes']:.2f}",
                " / ".join(f"{time:.2f}" if time else ABSENT for time in times),
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _differences(measured: dict[str, Any]) -> str:
    """Write the table of differences: mean over seeds, its 95 % interval, and the verdict after Holm's correction."""
    digits = 2 if measured["metric"] == "accuracy" else 1
    rows = [["stage", "control", "difference", "95 % interval", "p (Holm)", "verdict"], ["---"] * 6]
    for row in measured["rows"]:
        for each in row.get("differences", []):
            tested = each["low"] is not None
            interval = f"{each['low']:+.{digits}f} to {each['high']:+.{digits}f}" if tested else ABSENT
            p = f"{each['holm']:.2g}" if tested else ABSENT
            mean = f"{each['mean']:+.{digits}f}"
            rows.append([f"`{row['name']}`", f"`{each['control']}`", mean, interval, p, each["verdict"]])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _how_measured(measured: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in measured["versions"].items())
    machine = measured["machine"]
    return (
        f"Mean ± standard deviation over the seeds, measured on {machine['processor']}, {machine['cores']} cores, "
        f"with {versions}, by\n\n```sh\n{measured['command']}\n```"
    )


def _stage(stage: Stage) -> str:
    """Write a stage's heading and the header of its config."""
    names = ", ".join(f"`{name}`" for name in stage.taught_by)
    teacher = f" Teacher: {names}." if names else ""
    options = "".join(f" `{name}: {value}`." for name, value in stage.options.items())
    if stage.tries:
        options += f" Chosen from {len(stage.tries)} tries: {', '.join(f'`{setting}`' for setting in stage.tries)}."
    if isinstance(stage.config, dict):
        return f"### `{stage.name}`\n\n{(teacher + options).strip()}"
    header = [line[1:].strip() for line in stage.config.read_text().splitlines() if line.startswith("#")]
    lines = "\n".join(f"- {_as_code(line)}" if KEYS.match(line) else line for line in header)
    text, *rest = lines.partition("\n- ")
    where = f"`configs/{stage.config.parent.name}/{stage.config.name}`"
    return f"### `{stage.name}`\n\n{text}{teacher}{options}\n{''.join(rest)}\n- Config: {where}."


def _as_code(line: str) -> str:
    name, _, value = line.partition(": ")
    return f"{name}: `{value}`" if name == "Command" else line
