"""Results of a sweep: table, heat map, and hyperparameters in TensorBoard."""

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from kd_lightning.utils.atomic_write import write_text


class Student(NamedTuple):
    """A student of the grid, with the seed of its initial weights."""

    temperature: float
    soft_weight: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its run."""
        return f"T{self.temperature:g}_w{self.soft_weight:g}_seed{self.seed}"


class Result(NamedTuple):
    """Figures of a student on the validation images: accuracy in [0, 1], negative log-likelihood in nats."""

    student: Student
    accuracy: float
    nll: float


Cell = tuple[float, float]
"""Temperature and soft weight."""


def by_cell(results: Sequence[Result]) -> dict[Cell, list[Result]]:
    """Group results by cell, in the order of the grid."""
    cells: dict[Cell, list[Result]] = {}
    for result in results:
        cells.setdefault((result.student.temperature, result.student.soft_weight), []).append(result)
    return cells


def mean_accuracies(results: Sequence[Result]) -> dict[Cell, float]:
    """Return the mean accuracy of each cell over its seeds."""
    return {cell: statistics.fmean(result.accuracy for result in its) for cell, its in by_cell(results).items()}


def best_cell(results: Sequence[Result]) -> Cell:
    """Return the cell with the highest mean accuracy; of several, that with the lowest negative log-likelihood."""
    accuracy = mean_accuracies(results)
    nll = {cell: statistics.fmean(result.nll for result in its) for cell, its in by_cell(results).items()}
    return max(accuracy, key=lambda cell: (accuracy[cell], -nll[cell]))


def write_csv(file: Path, results: Sequence[Result]) -> None:
    """Write a line for each student."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["temperature", "soft_weight", "seed", "val_accuracy", "val_nll"])
    writer.writerows([*result.student, f"{result.accuracy:.6f}", f"{result.nll:.6f}"] for result in results)
    write_text(file, text.getvalue())


def draw_grid(results: Sequence[Result]) -> Figure:
    """Draw the mean accuracy of each cell, in %, as a heat map: columns are temperatures, rows soft weights."""
    cells = mean_accuracies(results)
    temperatures, weights = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    table = [[100 * cells[t, w] for t in temperatures] for w in weights]
    figure = Figure(figsize=(2.5 + 0.8 * len(temperatures), 2 + 0.5 * len(weights)), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lowest, highest = min(cells.values()), max(cells.values())
    axes.imshow(table, cmap="viridis", aspect="auto")
    axes.set(title="validation accuracy, %", xlabel="temperature", ylabel="soft weight")
    axes.set_xticks(range(len(temperatures)), [f"{t:g}" for t in temperatures])
    axes.set_yticks(range(len(weights)), [f"{w:g}" for w in weights])
    for row, accuracies in enumerate(table):
        for column, accuracy in enumerate(accuracies):
            dark = accuracy / 100 < lowest + 0.6 * (highest - lowest)
            axes.text(column, row, f"{accuracy:.2f}", ha="center", va="center", color="white" if dark else "black")
    return figure


def write_events(folder: Path, results: Sequence[Result], figure: Figure) -> None:
    """Write the heat map, and a run for each student with its hyperparameters, for TensorBoard."""
    with SummaryWriter(str(folder)) as writer:
        writer.add_figure("sweep/accuracy", figure)
        for student, accuracy, nll in results:
            figures = {"val/accuracy": accuracy, "val/nll": nll}
            writer.add_hparams(student._asdict(), figures, run_name=student.name)


def terminal_table(results: Sequence[Result]) -> Table:
    """Return a table with mean and spread of each cell over its seeds."""
    table = Table("temperature", "soft weight", "validation accuracy, %", "n", title="sweep")
    best = best_cell(results)
    for cell, its in by_cell(results).items():
        values = [100 * result.accuracy for result in its]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        words = f"{cell[0]:g}", f"{cell[1]:g}", f"{statistics.fmean(values):.2f}{spread}", str(len(values))
        table.add_row(*words, style="bold" if cell == best else None)
    return table
