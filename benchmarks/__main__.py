"""`python -m benchmarks`: how long everything takes, as a table, and kept with machine and versions."""

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

from benchmarks import cifar10_densenet, cifar10_tutorial, data_path, memory, mnist_hinton, mnist_transfer
from benchmarks.turns import OURS, Benchmark, share, take_turns
from kd_lightning.reports.results import machine, versions
from kd_lightning.utils.cpu import make_cpu_fast

BENCHMARKS: dict[str, Callable[[Path, int | None], Benchmark]] = {
    "mnist_transfer": mnist_transfer.benchmark,
    "mnist_transfer_sweep": mnist_transfer.sweep,
    "mnist_hinton_teacher": mnist_hinton.teacher,
    "mnist_hinton_distilled": mnist_hinton.distilled,
    "cifar10_tutorial": cifar10_tutorial.benchmark,
    "cifar10_densenet": cifar10_densenet.benchmark,
    "data_path": data_path.benchmark,
    "memory": memory.benchmark,
}

RECORDS = Path("benchmarks", "records.jsonl")
"""Every run that was kept, one a line, the newest last; none is taken away."""


def main(words: list[str] | None = None) -> None:
    """Run the benchmarks named, and print a table after each."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time this project's trainings in turn with others of the same work: all of them do one after "
        "another, again and again. To be run in the repository's root, on a machine with nothing else to do.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch, for all (default: %(default)s)")
    parser.add_argument("--images", type=int, metavar="N", help="of the training set, to see that a benchmark runs")
    parser.add_argument("--keep", action="store_true", help=f"add the figures to {RECORDS}")
    options = parser.parse_args(words)
    if unknown := sorted(set(options.names) - set(BENCHMARKS)):
        parser.error(f"{', '.join(unknown)} found, of {', '.join(BENCHMARKS)} expected")
    if options.keep and (changed := _changed()):
        parser.error(f"--keep names the commit that was measured, but these were changed since: {', '.join(changed)}")
    # Named before the first turn: what is changed while they run was not measured.
    commit = _git("rev-parse", "--short", "HEAD").strip() if options.keep else ""
    torch.set_num_threads(options.threads)
    make_cpu_fast()
    console = Console()
    for name in options.names or BENCHMARKS:
        with tempfile.TemporaryDirectory() as folder:
            benchmark = BENCHMARKS[name](Path(folder), options.images)
            figures = take_turns(benchmark.turns, options.rounds, partial(_tell, console, benchmark))
        console.print(_table(benchmark, figures))
        if options.keep:
            _keep(name, commit, benchmark, figures)


def _changed() -> list[str]:
    """The files that differ from the commit, but for the records themselves."""
    lines = _git("status", "--porcelain", "--untracked-files=no", "--", f":!{RECORDS}").splitlines()
    return [line[3:] for line in lines]


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], stdout=subprocess.PIPE, text=True, check=True).stdout


def _tell(console: Console, benchmark: Benchmark, who: str, figure: float) -> None:
    console.print(f"{who}: {figure:.4g} {benchmark.unit}")


def _table(benchmark: Benchmark, figures: dict[str, list[float]]) -> Table:
    table = Table("", "median", "minimum", "maximum", "n", "ours / it", "to reach", title=benchmark.title)
    for who, its in figures.items():
        goal = benchmark.ours_at_most if who == OURS else benchmark.at_most.get(who)
        table.add_row(
            who,
            *(f"{of(its):.4g} {benchmark.unit}" for of in (median, min, max)),
            str(len(its)),
            "" if who == OURS else f"{share(figures[OURS], its):.3f}",
            "" if goal is None else f"{goal:.3g}{f' {benchmark.unit}' if who == OURS else ''} or less",
        )
    return table


def _keep(name: str, commit: str, benchmark: Benchmark, figures: dict[str, list[float]]) -> None:
    record = {
        "name": name,
        "title": benchmark.title,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "unit": benchmark.unit,
        "figures": figures,
        "ours / it": {who: share(figures[OURS], its) for who, its in figures.items() if who != OURS},
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "machine": machine(),
    }
    with RECORDS.open("a") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
