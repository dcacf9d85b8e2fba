"""`kd-lightning reproduce`: train, test and compare the stages of a recipe."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from kd_lightning.checkpoints.weights import resolve_checkpoint
from kd_lightning.cli import lightning
from kd_lightning.cli.arguments import DEFAULT_RECIPE, reproduce_arguments
from kd_lightning.cli.next_steps import STAGE, finish_loggers
from kd_lightning.cli.parser import pairs
from kd_lightning.commands.plan import Run, plan_runs, record_of_test
from kd_lightning.commands.processes import run_process, spawns_processes
from kd_lightning.errors import UserError
from kd_lightning.recipe import find_recipe
from kd_lightning.reports.columns import print_warnings, terminal_table
from kd_lightning.reports.comparison import collect
from kd_lightning.reports.html import write_report
from kd_lightning.reports.results import read_results, update_results
from kd_lightning.utils import stopping
from kd_lightning.utils.terminal import quiet_console

RUN_OPTIONS = ("--seed_everything", "--ckpt_path", "--label", "--overwrite")
"""Options of `fit` that `reproduce` sets for each run."""


def main(words: list[str]) -> None:
    """Run `kd-lightning reproduce` with the words after it.

    Raises:
        UserError: a mistake in the command line, a config or the data.
    """
    # The recipe is the first word. argparse would take the value of an unknown option for it.
    name, rest = (words[0], words[1:]) if words and not words[0].startswith("-") else (DEFAULT_RECIPE, words)
    options, further = reproduce_arguments().parse_known_args(rest)
    if options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds: {options.seeds} found, at least 1 expected")
    recipe = find_recipe(name)
    stages = recipe.choose(options.stages.split(",") if options.stages else None)
    overrides = pairs(further, "reproduce", RUN_OPTIONS)
    plan = plan_runs(recipe, stages, options.seeds or recipe.seeds, options.runs, overrides)
    console = quiet_console()
    for number, run in enumerate(plan, start=1):
        stopping.check()
        label = f"[{number}/{len(plan)}] {recipe.name}: {run.stage.name}, seed {run.seed}"
        with _locked(run.folder, console):
            if run.is_finished and not options.force:
                console.print(f"{label}: finished before, kept ({run.folder})")
                continue
            if run.is_trained and not options.force:
                console.print(f"{label}: trained before, tested again ({run.folder})")
                _test(run)
            else:
                resumes = run.is_interrupted and not options.force
                console.print(f"{label}{': interrupted before, resumed' if resumes else ''}")
                _train_and_test(run, resumes)
            results = read_results(run.folder)
            console.print(f"    {results['test']['errors']} errors, {results['fit']['seconds']:.1f} s")
    settings = {run.stage.name: run.settings for run in plan}
    comparison = collect(recipe, options.runs, shlex.join(["kd-lightning", "reproduce", *words]), settings)
    report = write_report(comparison, options.runs / recipe.name)
    console.print(terminal_table(comparison))
    print_warnings(comparison)
    console.print(f"results: {report}")
    console.print(f"next: tensorboard --logdir {options.runs / recipe.name}")


@contextmanager
def _locked(folder: Path, console: Console) -> Iterator[None]:
    """Hold the lock of a run folder; wait while another process trains in it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print(f"waiting for another process, which trains in {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _train_and_test(run: Run, resumes: bool) -> None:
    checkpoint = [f"--ckpt_path={run.last_checkpoint}"] if resumes else []
    words = ["fit", *run.words(continues=resumes), f"--label={run.fingerprint}", *checkpoint]
    if spawns_processes(run.config["trainer"]):
        # Lightning starts the further processes with the command line of this one, so it has to be that of the stage.
        if run_process([sys.executable, "-m", "kd_lightning", *words], {**os.environ, STAGE: run.stage.name}):
            raise UserError(f"{run.stage.name}, seed {run.seed}: fit failed; see its message above")
        _test(run)
    else:
        trained = lightning.main(words)
        best = resolve_checkpoint(run.folder, run.stage.name)
        trained.trainer.test(trained.model, trained.datamodule, ckpt_path=str(best), verbose=False)
        finish_loggers()
        _sign(run)


def _test(run: Run) -> None:
    one_device = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    devices = one_device if spawns_processes(run.config["trainer"]) else []
    lightning.main(["test", *run.words(continues=True), *devices, f"--ckpt_path={run.folder}", "--verbose=false"])
    finish_loggers()
    _sign(run)


def _sign(run: Run) -> None:
    """Write to a run's results what its figures depend on."""
    record = record_of_test(read_results(run.folder))
    update_results(run.folder, settings=run.settings, fingerprint=run.fingerprint, reproduced=record)
