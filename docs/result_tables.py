"""Write the tables of results in the README and the pages from `lightning_logs/measured/*.json`.

A page has the table of a recipe's losses against its controls between `<!-- comparison: RECIPE -->` and
`<!-- end of comparison -->`.

Run `python docs/result_tables.py` at the top of the repository after a new measurement.
"""

import json
import re
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import t

from kd_lightning.reports.column import mean_and_spread
from kd_lightning.reports.columns import cells
from kd_lightning.reports.comparison import read_comparison

ROOT = Path(__file__).parents[1]
FIRST, LAST = "<!-- results -->\n\n", "\n\n<!-- end of results -->"

HEADLINES = {
    "digits": ("baseline", "distill_unlabelled"),
    "mnist_transfer": ("baseline", "distill"),
    "mnist_hinton": ("baseline", "distill"),
    "cifar10_tutorial": ("baseline", "distill"),
    "cifar10_vgg": ("baseline", "distill"),
    "cifar10_densenet": ("baseline", "distill_improved_resnet18"),
    "dogs_vs_cats": ("baseline_improved", "distill_improved_resnet18"),
}
"""For each recipe, in the order of the tables: the student trained on labels alone, and the distilled one."""

OTHERS = ("cifar10_resnet56", "eurosat", "dogs_efficientnet")
"""Recipes outside of `configs/`, whose YAML lies beside the figures; they are in `results.md` alone."""

COMPARISON = re.compile(r"(<!-- comparison: ([^ ]+) -->\n\n).*?(\n*<!-- end of comparison -->)", re.S)

LEFT_OUT = ("published", "parameters")
"""Columns that the table of a comparison does not have."""

METRICS = {"errors": "errors of {:,}", "right": "correct of {:,}", "accuracy": "accuracy, % of {:,}"}
LEVEL = 0.95
ABSENT = "\N{EN DASH}"
NO_BREAK = "\N{NO-BREAK SPACE}"


def read(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Read what was measured, by recipe, in the order of `HEADLINES` and `OTHERS`."""
    names = (*HEADLINES, *OTHERS)
    return {name: json.loads((root / "lightning_logs/measured" / f"{name}.json").read_text()) for name in names}


def interval(values: list[float], digits: int) -> str:
    """Write the mean and its 95 % confidence interval (Student's t), such as `77.7 (72.5 to 82.8)`."""
    mean, error = statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5
    low, high = t.interval(LEVEL, len(values) - 1, loc=mean, scale=error)
    return f"{mean:.{digits}f} ({low:.{digits}f}{NO_BREAK}to{NO_BREAK}{high:.{digits}f})"


def headlines(measured: dict[str, dict[str, Any]]) -> str:
    """Make the README's table: a row for each recipe."""
    head = [
        "recipe",
        "figure",
        "labels only: published",
        "labels only: ours",
        "distilled: published",
        "distilled: ours",
        "n",
    ]
    lines = [head, ["---"] * len(head)]
    for name, (alone, distilled) in HEADLINES.items():
        rows = {row["name"]: row for row in measured[name]["rows"]}
        cells = [f"`{name}`", _figure(measured[name])]
        digits = 0 if measured[name]["metric"] == "right" else 1
        for stage in (alone, distilled):
            row = rows[stage]
            cells += [_published(row), interval(row["figures"], digits)]
        cells[-1] = f"**{cells[-1]}**"
        counts = dict.fromkeys(str(len(rows[stage]["figures"])) for stage in (alone, distilled))
        lines.append([*cells, ", ".join(counts)])
    return _table(lines)


def all_results(measured: dict[str, dict[str, Any]]) -> str:
    """Make the table of `results.md`: a row for each stage of each recipe."""
    head = ["recipe", "stage", "published", "ours", "n"]
    lines = [head, ["---"] * len(head)]
    for name, comparison in measured.items():
        first = f"`{name}`, {_figure(comparison)}"
        for row in comparison["rows"]:
            figure = mean_and_spread(row["figures"], _digits(comparison))
            lines.append([first, f"`{row['name']}`", _published(row), f"**{figure}**", str(len(row["figures"]))])
            first = ""
    return _table(lines)


def with_comparisons(page: str, root: Path = ROOT) -> str:
    """Return a page with the tables of comparisons between their marks."""

    def fill(found: re.Match[str]) -> str:
        rows = cells(read_comparison(root / "lightning_logs" / "measured" / f"{found[2]}.json"))
        head = [heading for heading in rows[0] if heading not in LEFT_OUT]
        lines = [[f"`{row['stage']}`", *(row[heading].replace(" ", NO_BREAK) for heading in head[1:])] for row in rows]
        return found[1] + _table([head, ["---"] * len(head), *lines]) + "\n\n" + found[3].strip()

    return COMPARISON.sub(fill, page)


def write(root: Path = ROOT) -> None:
    """Replace all tables, each between its marks."""
    measured = read(root)
    for page, table in (("README.md", headlines(measured)), ("docs/results.md", all_results(measured))):
        file = root / page
        before, _, rest = file.read_text().partition(FIRST)
        file.write_text(before + FIRST + table + LAST + rest.partition(LAST.strip())[2])
    for file in (root / "docs").glob("*.md"):
        file.write_text(with_comparisons(file.read_text(), root))


def _figure(comparison: dict[str, Any]) -> str:
    return METRICS[comparison["metric"]].format(comparison["rows"][0]["images"])


def _digits(comparison: dict[str, Any]) -> int:
    return 2 if comparison["metric"] == "accuracy" else 1


def _published(row: dict[str, Any]) -> str:
    return ABSENT if row["published"] is None else str(row["published"])


def _table(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    write()
