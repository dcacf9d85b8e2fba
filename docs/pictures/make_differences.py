"""Draw the differences of a measured recipe to a control: a line for each stage, with its interval and a dot a seed.

Run `python docs/pictures/make_differences.py RECIPE CONTROL` at the top of the repository. It reads
`lightning_logs/measured/RECIPE.json` and writes `RECIPE_minus_CONTROL_light.png` and `…_dark.png` beside itself.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from kd_lightning.recipe import METRICS
from kd_lightning.reports.comparison import read_comparison
from kd_lightning.reports.control_columns import difference_in_words
from kd_lightning.reports.difference_chart import best_first
from kd_lightning.reports.differences import Difference
from kd_lightning.reports.rows import Row

FOLDER = Path(__file__).parent
MEASURED = FOLDER.parents[1] / "lightning_logs" / "measured"

COLOURS = {
    "light": {"text": "#1f2328", "quiet": "#59626d", "back": "#ffffff", "grid": "#d1d9e0", "marks": "#0b63b5"},
    "dark": {"text": "#f0f6fc", "quiet": "#a3acb8", "back": "#0d1117", "grid": "#3d444d", "marks": "#58a6ff"},
}


def draw(pairs: Sequence[tuple[Row, Difference]], control: str, unit: str, mode: str) -> Figure:
    """Draw the differences in the colours of a mode, `light` or `dark`.

    Args:
        pairs: rows with their differences to the control, from top to bottom.
        control: its name.
        unit: of the differences.
        mode: `light` or `dark`.
    """
    colours = COLOURS[mode]
    named = {f"{part}.color": colours["text"] for part in ("text", "xtick", "ytick")}
    with plt.rc_context({**named, "axes.labelcolor": colours["text"], "font.size": 9}):
        size = 6.4, 0.9 + 0.52 * len(pairs)
        figure = plt.figure(figsize=size, dpi=200, facecolor=colours["back"], layout="constrained")
        axes = figure.add_subplot(facecolor=colours["back"])
        for place, (row, each) in enumerate(pairs):
            decided = each.verdict in ("better", "worse")
            colour = colours["marks"] if decided else colours["quiet"]
            if each.low is not None and each.high is not None:
                ends = [[each.mean - each.low], [each.high - each.mean]]
                axes.errorbar(each.mean, place, xerr=ends, color=colour, lw=2.5, capsize=3.5, capthick=1.5)
            axes.plot(each.values, [place - 0.22] * len(each.values), "o", color=colours["marks"], ms=3.5, alpha=0.7)
            axes.plot([each.mean], [place], "D", color=colours["text"], ms=5, zorder=3)
            words = f"{difference_in_words(row, each)}\n{each.verdict}"
            axes.annotate(words, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        axes.axvline(0.0, color=colours["text"], lw=1)
        axes.set(yticks=range(len(pairs)), ylim=(len(pairs) - 0.5, -0.6), xlabel=f"difference to {control} in {unit}")
        axes.set_yticklabels([row.name for row, _ in pairs])
        axes.grid(color=colours["grid"], lw=0.6, axis="x")
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def main(recipe: str, control: str) -> None:
    """Write both pictures."""
    comparison = read_comparison(MEASURED / f"{recipe}.json")
    pairs = best_first(comparison.rows, control)
    if not pairs:
        sys.exit(f"{recipe}: no differences to {control} found; `controls` of its recipe names those to measure")
    unit = "points" if comparison.metric == "accuracy" else METRICS[comparison.metric]
    for mode in COLOURS:
        draw(pairs, control, unit, mode).savefig(FOLDER / f"{recipe}_minus_{control}_{mode}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
