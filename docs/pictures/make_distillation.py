"""Draw the README's picture: a hard label beside a teacher's softened output, and accuracy against size.

Run `python docs/pictures/make_distillation.py` at the top of the repository. It trains the teacher of `digits` once
(a few seconds, no download), reads `lightning_logs/measured/digits.json`, and writes `distillation_light.png` and
`distillation_dark.png` beside itself.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib.pyplot as plt
import torch
from lightning import Trainer, seed_everything
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd_lightning import MLP, CosineDecay, DigitsDataModule, Shift, TeacherModule

FOLDER = Path(__file__).parent
MEASURED = FOLDER.parents[1] / "lightning_logs" / "measured" / "digits.json"
TEMPERATURE = 4.0
TEST_IMAGE = 196
"""A 9 that resembles a 4 and a 7."""

COLOURS = {
    "light": {"text": "#1f2328", "back": "#ffffff", "grid": "#d1d9e0", "teacher": "#0b63b5", "student": "#b4391f"},
    "dark": {"text": "#f0f6fc", "back": "#0d1117", "grid": "#3d444d", "teacher": "#58a6ff", "student": "#ff9b70"},
}
NAMES = {"teacher": "teacher", "baseline": "student on labels", "distill_unlabelled": "distilled student"}
"""Stages that the picture shows."""


def teacher_output() -> tuple[torch.Tensor, int, list[float]]:
    """Train the teacher of `configs/digits/teacher.yaml`.

    Returns:
        The pixels (8, 8) of one test image, its label, and the teacher's ten probabilities at `TEMPERATURE`.
    """
    seed_everything(0)
    teacher = TeacherModule(
        MLP([64, 400, 400, 10], hidden_dropout=0.5),
        optimizer=partial(torch.optim.AdamW, lr=0.002),
        lr_scheduler=CosineDecay,
    )
    data = DigitsDataModule(batch_size=64, views=Shift(1))
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    Trainer(max_epochs=60, enable_progress_bar=False, **quiet).fit(teacher, data)
    test = data.load(train=False)
    pixels, label = test.image[TEST_IMAGE, 0], int(test.label[TEST_IMAGE])
    normalised = (test.image[TEST_IMAGE : TEST_IMAGE + 1].float() / 255 - data.mean) / data.std
    with torch.no_grad():
        logits = teacher.eval()(normalised)
    return pixels, label, torch.softmax(logits / TEMPERATURE, dim=1)[0].tolist()


def draw(pixels: torch.Tensor, label: int, soft: Sequence[float], measured: dict[str, Any], mode: str) -> Figure:
    """Draw all panels in the colours of a mode, `light` or `dark`."""
    colours = COLOURS[mode]
    named = {f"{part}.color": colours["text"] for part in ("text", "xtick", "ytick")}
    style = {**named, "axes.labelcolor": colours["text"], "font.size": 10, "svg.fonttype": "none"}
    with plt.rc_context(style):
        figure = plt.figure(figsize=(4.2, 4.6), dpi=240, facecolor=colours["back"], layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        grid = figure.add_gridspec(3, 2, width_ratios=(1, 2.3), height_ratios=(1, 1, 2.2))
        digit = figure.add_subplot(grid[:2, 0])
        digit.imshow(pixels.numpy(), cmap="gray" if mode == "dark" else "gray_r")
        digit.set(xticks=[], yticks=[], title="image")
        hard = [float(c == label) for c in range(10)]
        _bars(figure.add_subplot(grid[0, 1]), hard, "hard label", colours["student"], colours)
        _bars(
            figure.add_subplot(grid[1, 1]), soft, f"softened teacher, T = {TEMPERATURE:g}", colours["teacher"], colours
        )
        _accuracies(figure.add_subplot(grid[2, :]), measured, colours)
    return figure


def _bars(axes: Axes, probabilities: Sequence[float], title: str, colour: str, colours: dict[str, str]) -> None:
    axes.bar(range(10), probabilities, color=colour)
    axes.set(ylim=(0, 1.05), yticks=[0, 1], xticks=range(10), facecolor=colours["back"], title=title)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(colours["grid"])
    axes.tick_params(length=0)


def _accuracies(axes: Axes, measured: dict[str, Any], colours: dict[str, str]) -> None:
    for row in (row for row in measured["rows"] if row["name"] in NAMES):
        accuracies = [100 * (1 - errors / row["images"]) for errors in row["errors"]]
        spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
        colour = colours["teacher" if row["name"] == "teacher" else "student"]
        filled = colours["back"] if row["name"] == "baseline" else colour
        mean, size = fmean(accuracies), row["parameters"]
        axes.errorbar(size, mean, spread, fmt="o", ms=8, color=colour, mfc=filled, mew=2)
        left = row["name"] == "teacher"
        axes.annotate(
            f"{NAMES[row['name']]}: {mean:.1f} %",
            (size, mean),
            (-10 if left else 10, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
        )
    axes.set(
        xscale="log",
        xlim=(1500, 300_000),
        ylim=(86, 98),
        yticks=range(86, 99, 4),
        xlabel="parameters (logarithmic)",
        ylabel="test accuracy in %",
    )
    axes.set(title="accuracy against size", facecolor=colours["back"])
    axes.minorticks_off()
    sizes = sorted({row["parameters"] for row in measured["rows"]})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.grid(color=colours["grid"], lw=0.6, axis="y")
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def main() -> None:
    """Write both pictures."""
    pixels, label, soft = teacher_output()
    measured = json.loads(MEASURED.read_text())
    for mode in COLOURS:
        draw(pixels, label, soft, measured, mode).savefig(FOLDER / f"distillation_{mode}.png")


if __name__ == "__main__":
    main()
