"""Published figures beside ours: the table in the terminal, and the report with its figure."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from kd_lightning.commands.recipe import METRICS, Recipe
from kd_lightning.latency import BATCH_SIZES
from kd_lightning.results import machine, read_results, versions
from kd_lightning.whole import whole_file, write_text

RULES = {
    "as_trained": "as trained",
    "frequency": "bias by class frequency",
    "test_optimal": "bias chosen on the test set",
}


@dataclass(frozen=True)
class Row:
    """A stage, or a stage under one rule of the bias fix, over all seeds that were run.

    Lists have one entry a seed; `agreement` and `latency` (milliseconds, by batch size) only of the seeds for which it
    was measured.
    """

    name: str
    published: float | str | None
    figures: list[float]
    errors: list[int]
    images: int
    class_errors: list[int]
    agreement: list[float]
    parameters: int
    mebibytes: float
    reduction: float | None
    latency: dict[str, list[float]]
    device: str
    threads: int | None
    seconds: list[float]


def mean_and_spread(values: list[float] | list[int], digits: int = 1) -> str:
    """Write `mean ± standard deviation`; a single value as it is."""
    if len(values) == 1:
        return f"{values[0]:g}"
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.3f}" if values else ""


def collect(recipe: Recipe, runs: Path) -> list[Row]:
    """Read what was measured of a recipe; a stage of which no run was tested is left out.

    Runs of a stage are put together only where they differ in nothing but the seed: seeds left over from an earlier
    call with other options, other files or another teacher do not count.

    Args:
        recipe: what to look for.
        runs: folder that holds `<recipe>/<stage>/seed_<n>/`.
    """
    rows: list[Row] = []
    sizes: dict[str, float] = {}
    for stage in recipe.stages.values():
        folders = sorted((runs / recipe.name / stage.name).glob("seed_*"))
        found = [read_results(run) for run in folders]
        found = [results for results in found if "test" in results and "fit" in results]
        found = [results for results in found if results.get("settings") == found[0].get("settings")]
        if not found:
            continue
        sizes[stage.name] = found[0]["network"]["mebibytes"]
        teacher = sizes.get(stage.teacher or "")
        reduction = 1 - sizes[stage.name] / teacher if teacher else None
        if "bias_correction" in found[0]:
            for rule, words in RULES.items():
                published = stage.corrected.get(rule)
                rows.append(_row(recipe, f"{stage.name}, {words}", published, found, rule, reduction))
        else:
            rows.append(_row(recipe, stage.name, stage.published, found, None, reduction))
    return rows


def _row(
    recipe: Recipe,
    name: str,
    published: float | str | None,
    found: list[dict[str, Any]],
    rule: str | None,
    reduction: float | None,
) -> Row:
    images = found[0]["test"]["images"]
    part = [results["bias_correction"][rule] if rule else results["test"] for results in found]
    errors = [figures["errors"] for figures in part]
    by_metric = {
        "errors": [float(e) for e in errors],
        "right": [float(images - e) for e in errors],
        "accuracy": [100 * (1 - e / images) for e in errors],
    }
    # Every rule of the bias fix has the same network; it was compared with its teacher as it was trained.
    tests = [results["test"] for results in found] if rule in (None, "as_trained") else []
    timed = [results["latency"] for results in found if "latency" in results]
    keys = [f"batch_{size}" for size in BATCH_SIZES]
    return Row(
        name=name,
        published=published,
        figures=by_metric[recipe.metric],
        errors=errors,
        images=images,
        class_errors=[figures["class_errors"] for figures in part] if rule else [],
        agreement=[test["agreement"] for test in tests if "agreement" in test],
        parameters=found[0]["network"]["parameters"],
        mebibytes=found[0]["network"]["mebibytes"],
        reduction=reduction,
        latency={key: [latency[key] for latency in timed if key in latency] for key in keys},
        device=found[0]["device"],
        threads=found[0].get("threads"),
        seconds=[results["fit"]["seconds"] for results in found],
    )


def cells(rows: list[Row], metric: str) -> list[dict[str, str]]:
    """What each row shows, by column; a column that says nothing, or nothing new, is left out."""
    table = [
        {
            "stage": row.name,
            "published": "" if row.published is None else str(row.published),
            "ours": mean_and_spread(row.figures, 2 if metric == "accuracy" else 1),
            "n": str(len(row.figures)),
            "errors": "" if metric == "errors" else mean_and_spread(row.errors),
            "on these classes": mean_and_spread(row.class_errors) if row.class_errors else "",
            "agrees with teacher": f"{mean_and_spread([100 * a for a in row.agreement], 2)}%" if row.agreement else "",
            "parameters": f"{row.parameters:,}",
            "MiB": f"{row.mebibytes:.3f}",
            "smaller by": "" if row.reduction is None else f"{row.reduction:.2%}",
            **{f"ms, batch {size}": _median(row.latency[f"batch_{size}"]) for size in BATCH_SIZES},
            "seconds": f"{statistics.fmean(row.seconds):.1f}",
        }
        for row in rows
    ]
    return [{column: row[column] for column in row if any(other[column] for other in table)} for row in table]


def terminal_table(recipe: Recipe, rows: list[Row]) -> Table:
    """The comparison, for a terminal."""
    table = Table(title=f"{recipe.title} ({METRICS[recipe.metric]} on the test set)", caption=recipe.source)
    shown = cells(rows, recipe.metric)
    for column in shown[0]:
        words = column in ("stage", "published")
        # A heading takes a line a word: a column is as wide as its figures.
        heading = column if words else column.replace(" ", "\n")
        table.add_column(heading, justify="left" if words else "right", overflow="fold")
    for row in shown:
        table.add_row(*row.values())
    return table


def write_report(recipe: Recipe, rows: list[Row], runs: Path, command: str) -> Path:
    """Write `report.md`, `comparison.png` and `comparison.json` into the recipe's folder of runs.

    Returns:
        The report's path.
    """
    folder = runs / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "comparison.png") as draft:
        draw_errors(recipe, rows).savefig(draft)
    record = {
        "title": recipe.title,
        "source": recipe.source,
        "metric": recipe.metric,
        "command": command,
        "versions": versions(),
        "machine": machine(),
        "rows": [vars(row) for row in rows],
    }
    write_text(folder / "comparison.json", json.dumps(record, indent=2) + "\n")
    shown = cells(rows, recipe.metric)
    lines = [
        f"# {recipe.title}",
        "",
        f"Source: {recipe.source}. Figures: {METRICS[recipe.metric]} on the test set, mean ± standard deviation over "
        f"the seeds (n). Seconds: one training, without the test; a teacher's answers are worked out in the first that "
        f"needs them.{_said_of_latency(rows)}",
        "",
        f"    {command}",
        "",
        "| " + " | ".join(shown[0]) + " |",
        "|" + "---|" * len(shown[0]),
        *("| " + " | ".join(row.values()) + " |" for row in shown),
        "",
        "![test errors of every run](comparison.png)",
        "",
        "## Errors of the first run of each stage",
        "",
    ]
    for stage in recipe.stages.values():
        run = Path(stage.name, "seed_0")
        if (folder / run / "errors.png").is_file():
            lines += [
                f"### {stage.name}",
                "",
                f"![errors]({run}/errors.png) ![confusion]({run}/confusion.png)",
                "",
            ]
    report = folder / "report.md"
    write_text(report, "\n".join(lines))
    return report


def _said_of_latency(rows: list[Row]) -> str:
    """What the table's milliseconds are, and of which device; nothing where it has none."""
    timed = [row for row in rows if any(row.latency.values())]
    devices = dict.fromkeys(f"{row.device}, CPU threads: {row.threads}" for row in timed)
    return f" ms: one forward pass of a batch, median ({'; '.join(devices)})." if timed else ""


def draw_errors(recipe: Recipe, rows: list[Row]) -> Figure:
    """Draw the test errors of every run as a dot, one line a row, with the published figure as a bar."""
    figure = Figure(figsize=(8, 1.2 + 0.36 * len(rows)), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for y, row in enumerate(rows):
        axes.plot(row.errors, [y] * len(row.errors), "o", color="tab:blue", alpha=0.6)
        if isinstance(row.published, int | float):
            published = {
                "errors": row.published,
                "right": row.images - row.published,
                "accuracy": (1 - row.published / 100) * row.images,
            }[recipe.metric]
            axes.plot([published], [y], "|", color="tab:red", markersize=16, markeredgewidth=2)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set(xlabel="test errors (dots: our runs, red bars: published)", ylim=(len(rows) - 0.5, -0.5))
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    return figure
