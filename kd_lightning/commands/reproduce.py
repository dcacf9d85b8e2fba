"""`kd-lightning reproduce`: train, test and compare the stages of a recipe."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from lightning.pytorch import Trainer
from rich.console import Console

from kd_lightning.checkpoints.weights import resolve_checkpoint
from kd_lightning.cli import lightning
from kd_lightning.cli.arguments import DEFAULT_RECIPE, reproduce_arguments
from kd_lightning.cli.next_steps import STAGE, finish_loggers
from kd_lightning.cli.parser import pairs
from kd_lightning.commands.plan import Run, StagePlan, plan_runs, record_of_test
from kd_lightning.commands.processes import run_process, spawns_processes
from kd_lightning.commands.same_run import copy_training
from kd_lightning.commands.tries import DIVERGED, choose, write_choice
from kd_lightning.errors import DivergedError, UserError
from kd_lightning.recipe import Recipe, find_recipe
from kd_lightning.reports.columns import print_warnings, terminal_table
from kd_lightning.reports.comparison import collect
from kd_lightning.reports.headline import headline
from kd_lightning.reports.html import write_report
from kd_lightning.reports.results import read_results, update_results
from kd_lightning.stage import Stage
from kd_lightning.utils import stopping
from kd_lightning.utils.terminal import quiet_console

RUN_OPTIONS = ("--seed_everything", "--ckpt_path", "--label", "--overwrite")
"""Options of `fit` that `reproduce` sets for each run."""


class Command(NamedTuple):
    """A command line of `reproduce`.

    Attributes:
        recipe: of the stages.
        stages: to run, a teacher before its students.
        seeds: number of runs of a stage that does not set its own.
        runs: folder for runs.
        force: whether to repeat finished runs.
        overrides: further options of `fit`.
    """

    recipe: Recipe
    stages: list[Stage]
    seeds: int
    runs: Path
    force: bool
    overrides: list[list[str]]

    @classmethod
    def read(cls, words: list[str], beside: Path | None = None) -> "Command":
        """Read the words after `kd-lightning reproduce`.

        Args:
            words: of the command line.
            beside: a folder in which a recipe's file is looked for first.

        Raises:
            UserError: a mistake in the command line, or no such recipe.
        """
        # The recipe is the first word. argparse would take the value of an unknown option for it.
        name, rest = (words[0], words[1:]) if words and not words[0].startswith("-") else (DEFAULT_RECIPE, words)
        options, further = reproduce_arguments().parse_known_args(rest)
        if options.seeds is not None and options.seeds < 1:
            raise UserError(f"--seeds: {options.seeds} found, at least 1 expected")
        own = beside / name if beside else None
        recipe = find_recipe(str(own) if own and own.is_file() else name)
        stages = recipe.choose(options.stages.split(",") if options.stages else None)
        overrides = pairs(further, "reproduce", RUN_OPTIONS)
        return cls(recipe, stages, options.seeds or recipe.seeds, options.runs, options.force, overrides)


def main(words: list[str]) -> None:
    """Run `kd-lightning reproduce` with the words after it.

    Raises:
        UserError: a mistake in the command line, a config or the data.
    """
    recipe, stages, seeds, folder, force, overrides = Command.read(words)
    plan = plan_runs(recipe, stages, seeds, folder, overrides)
    console = quiet_console()
    count = sum(len(of.tries) + len(of.runs) for of in plan)
    numbers = iter(range(1, count + 1))
    tested: list[Run] = []
    trained: dict[str, Path] = {}
    for of_stage in plan:
        for run in of_stage.tries:
            complete(run, f"[{next(numbers)}/{count}] {recipe.name}", force, console)
        runs = _with_best_setting(of_stage, console) if of_stage.tries else of_stage.runs
        for run in runs:
            same = trained.setdefault(run.fingerprint, run.folder)
            if not force and copy_training(run, same):
                console.print(f"{run.name}: the training of {same}, whose options are the same")
            complete(run, f"[{next(numbers)}/{count}] {recipe.name}", force, console)
        tested += runs
    settings = {run.stage.name: run.settings for run in tested}
    comparison = collect(recipe, folder, shlex.join(["kd-lightning", "reproduce", *words]), settings)
    report = write_report(comparison, folder / recipe.name)
    console.print(terminal_table(comparison))
    if line := headline(comparison):
        console.print(line, soft_wrap=True)
    print_warnings(comparison)
    console.print(f"results: {report}")
    console.print(f"next: tensorboard --logdir {folder / recipe.name}")


def complete(run: Run, prefix: str, force: bool, console: Console) -> None:
    """Train and test a run, or validate a try, unless it was finished before; resume an interrupted one.

    Args:
        run: of the plan.
        prefix: of the lines that are printed.
        force: whether to repeat a finished run.
        console: to print to.
    """
    stopping.check()
    label, done = f"{prefix}: {run.name}", "validated" if run.try_number else "tested"
    with _locked(run.folder, console):
        if run.is_finished and not force:
            console.print(f"{label}: finished before, kept ({run.folder})")
            return
        if run.is_trained and not force:
            console.print(f"{label}: trained before, {done} again ({run.folder})")
            _evaluate(run)
        else:
            resumes = run.is_interrupted and not force
            console.print(f"{label}{': interrupted before, resumed' if resumes else ''}")
            try:
                _train_and_evaluate(run, resumes)
            except DivergedError as error:
                if not run.try_number:
                    raise
                update_results(run.folder, **_signature(run), val={DIVERGED: str(error)})
                console.print(f"    diverged: {error}")
                return
        results = read_results(run.folder)
        found = f"{results['val']['accuracy']:.2%} right of the validation images" if run.try_number else ""
        console.print(f"    {found or str(results['test']['errors']) + ' errors'}, {results['fit']['seconds']:.1f} s")


def _with_best_setting(of_stage: StagePlan, console: Console) -> list[Run]:
    """Choose among the tries of a stage, record it, and return the stage's runs."""
    folders = [run.folder for run in of_stage.tries]
    place = choose(of_stage.stage.name, folders)
    write_choice(of_stage.folder, of_stage.stage, folders, place)
    setting = of_stage.stage.tries[place]
    words = ", ".join(f"{name}: {value}" for name, value in setting.items()) or "no further option"
    console.print(f"    {of_stage.stage.name}: try {place + 1} of {len(folders)} chosen ({words})")
    return of_stage.with_setting(setting)


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


def _train_and_evaluate(run: Run, resumes: bool) -> None:
    checkpoint = [f"--ckpt_path={run.last_checkpoint}"] if resumes else []
    words = ["fit", *run.words(continues=resumes), f"--label={run.fingerprint}", *checkpoint]
    if spawns_processes(run.config["trainer"]):
        # Lightning starts the further processes with the command line of this one, so it has to be that of the stage.
        if run_process([sys.executable, "-m", "kd_lightning", *words], {**os.environ, STAGE: run.stage.name}):
            raise UserError(f"{run.name}: fit failed; see its message above")
        _evaluate(run)
        return
    trained = lightning.main(words)
    if run.try_number:
        trained.trainer.validate(trained.model, trained.datamodule, ckpt_path=str(run.last_checkpoint), verbose=False)
    else:
        best = resolve_checkpoint(run.folder, run.stage.name)
        trained.trainer.test(trained.model, trained.datamodule, ckpt_path=str(best), verbose=False)
    finish_loggers()
    _sign(run, trained.trainer)


def _evaluate(run: Run) -> None:
    one_device = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    devices = one_device if spawns_processes(run.config["trainer"]) else []
    command, checkpoint = ("validate", run.last_checkpoint) if run.try_number else ("test", run.folder)
    words = [*run.words(continues=True), *devices, f"--ckpt_path={checkpoint}", "--verbose=false"]
    done = lightning.main([command, *words])
    finish_loggers()
    _sign(run, done.trainer)


def _signature(run: Run) -> dict[str, Any]:
    return {"settings": run.settings, "fingerprint": run.fingerprint}


def _sign(run: Run, trainer: Trainer) -> None:
    """Write to a run's results what its figures depend on; to those of a try, its figures on the validation images."""
    signed = _signature(run)
    if run.try_number:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        signed["val"] = {name[4:]: round(value, 6) for name, value in metrics.items() if name.startswith("val/")}
    else:
        signed |= {"recipe": run.origin, "reproduced": record_of_test(read_results(run.folder))}
    update_results(run.folder, **signed)
