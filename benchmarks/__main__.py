"""Run benchmarks with `python -m benchmarks`, print tables, and record the figures with machine and versions."""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import (
    cifar10_densenet,
    cifar10_tutorial,
    data_path,
    losses,
    memory,
    mnist_hinton,
    mnist_transfer,
    random_views,
)
from benchmarks.measure import OURS, Benchmark, measure_in_turn, median_ratio
from kd_lightning.reports.results import machine, versions
from kd_lightning.utils.cpu import configure_cpu

BENCHMARKS: dict[str, Callable[[Path, int | None], Benchmark]] = {
    "mnist_transfer": mnist_transfer.benchmark,
    "mnist_transfer_sweep": mnist_transfer.sweep,
    "mnist_hinton_teacher": mnist_hinton.teacher,
    "mnist_hinton_distilled": mnist_hinton.distilled,
    "cifar10_tutorial": cifar10_tutorial.benchmark,
    "cifar10_densenet": cifar10_densenet.benchmark,
    "data_path": data_path.benchmark,
    "random_views": random_views.benchmark,
    "losses": losses.benchmark,
    "memory": memory.benchmark,
}

RECORDS = Path("benchmarks", "records.jsonl")
"""All recorded runs, one JSON object a line, the newest last."""


def main(words: list[str] | None = None) -> None:
    """Run the named benchmarks and print a table after each."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure this project's training and other implementations of the same work in turn, for several "
        "rounds. Run it at the top of the repository, on a machine with nothing else to do.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="torch's CPU threads (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, metavar="N", help="training images; few, to check that a benchmark runs")
    parser.add_argument("--keep", action="store_true", help=f"append the figures to {RECORDS}")
    options = parser.parse_args(words)
    if unknown := sorted(set(options.names) - set(BENCHMARKS)):
        parser.error(f"{', '.join(unknown)} found, some of {', '.join(BENCHMARKS)} expected")
    if options.keep and (changed := _changed_files()):
        parser.error(
            f"--keep: uncommitted changes found in {', '.join(changed)}, none expected, as the commit is recorded; "
            "commit them first"
        )
    # Read before the first run: changes made during the runs are not measured.
    commit = _git("rev-parse", "--short", "HEAD").strip() if options.keep else ""
    torch.set_num_threads(options.threads)
    configure_cpu()
    console = Console()
    for name in options.names or BENCHMARKS:
        with tempfile.TemporaryDirectory() as folder:
            benchmark = BENCHMARKS[name](Path(folder), options.images)
            figures = measure_in_turn(benchmark.contenders, options.rounds, partial(_print_figure, console, benchmark))
        console.print(_table(benchmark, figures))
        if options.keep:
            _record(name, commit, benchmark, figures)


def _changed_files() -> list[str]:
    """List the tracked files that differ from the commit, except the records."""
    lines = _git("status", "--porcelain", "--untracked-files=no", "--", f":!{RECORDS}").splitlines()
    return [line[3:] for line in lines]


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], stdout=subprocess.PIPE, text=True, check=True).stdout


def _print_figure(console: Console, benchmark: Benchmark, who: str, figure: float) -> None:
    console.print(f"{who}: {figure:.4g} {benchmark.unit}")


def _table(benchmark: Benchmark, figures: dict[str, list[float]]) -> Table:
    table = Table("", "median", "minimum", "maximum", "n", "ours / it", "to reach", title=benchmark.title)
    for who, its in figures.items():
        goal = benchmark.our_aim if who == OURS else benchmark.aims.get(who)
        table.add_row(
            who,
            *(f"{of(its):.4g} {benchmark.unit}" for of in (median, min, max)),
            str(len(its)),
            "" if who == OURS else f"{median_ratio(figures[OURS], its):.3f}",
            "" if goal is None else f"{goal:.3g}{f' {benchmark.unit}' if who == OURS else ''} or less",
        )
    return table


def _record(name: str, commit: str, benchmark: Benchmark, figures: dict[str, list[float]]) -> None:
    record = {
        "name": name,
        "title": benchmark.title,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "unit": benchmark.unit,
        "figures": figures,
        "ours / it": {who: median_ratio(figures[OURS], its) for who, its in figures.items() if who != OURS},
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "machine": machine(),
    }
    with RECORDS.open("a") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
