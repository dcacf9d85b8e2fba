"""A recipe, end to end: teacher, baseline, distilled students, and how they compare."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from kd_lightning.checkpoints.file import read_weights
from kd_lightning.checkpoints.weights import resolve_checkpoint
from kd_lightning.cli import lightning
from kd_lightning.cli.arguments import DEFAULT_RECIPE, reproduce_arguments
from kd_lightning.cli.next_steps import STAGE
from kd_lightning.cli.parser import pairs
from kd_lightning.commands.dependencies import look_at, weights_in
from kd_lightning.commands.loggers import check_logger, loggers_of
from kd_lightning.errors import UserError
from kd_lightning.recipe import Recipe, Stage, find_recipe
from kd_lightning.reports.columns import print_warnings, terminal_table
from kd_lightning.reports.comparison import collect
from kd_lightning.reports.html import write_report
from kd_lightning.reports.results import TEST_PARTS, code_version, label_of, read_results, update_results
from kd_lightning.utils import stopping
from kd_lightning.utils.progress import line
from kd_lightning.utils.stopping import Stopped
from kd_lightning.utils.terminal import quiet_console

OWN = ("--seed_everything", "--ckpt_path", "--label", "--overwrite")
"""Options of `fit` that say which run it is."""


@dataclass(frozen=True)
class Run:
    """One training: a stage with one seed, in a folder of its own."""

    stage: Stage
    seed: int
    folder: Path
    options: list[str]
    config: dict[str, Any]
    data: str
    """A digest of the images and labels."""

    @cached_property
    def settings(self) -> str:
        """A digest of all that figures depend on but the seed: options, data, weights that options name, and the code.

        It is known once the run's teacher is trained.
        """
        unimportant = dict.fromkeys(("seed_everything", "label", "overwrite", "pictures", "disable_callbacks"))
        weights = weights_in(self.config["model"])
        depends_on = {**self.config, **unimportant, "data": [self.config["data"], self.data], "weights": weights}
        del depends_on["stage"]
        text = json.dumps([depends_on, code_version()], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """What the figures depend on."""
        return f"{self.settings}-{self.seed}"

    @property
    def done(self) -> bool:
        """Whether it was trained and tested with these very options, and no other test has replaced its figures."""
        results = read_results(self.folder)
        finished = results.get("fingerprint") == self.fingerprint and "test" in results
        return finished and _tested(results) == results.get("reproduced")

    @property
    def trained(self) -> bool:
        """Whether it was trained with these very options, so that a test is all that it lacks."""
        results = read_results(self.folder)
        is_its = results.get("label") == self.fingerprint and not results.get("fit", {"earlier": True}).get("earlier")
        return is_its and any(self.last.parent.glob("*.ckpt"))

    @property
    def begun(self) -> bool:
        """Whether a training with these very options was interrupted and can go on."""
        try:
            checkpoint = read_weights(self.last, "ckpt_path")
        except (OSError, UserError):  # none, or a damaged one
            return False
        # One that was resumed with other options keeps its label.
        return label_of(checkpoint) == self.fingerprint and not checkpoint["callbacks"]["ResultsWriter"].get("earlier")

    @property
    def last(self) -> Path:
        """The checkpoint that it would go on from."""
        return self.folder / "checkpoints" / "last.ckpt"


@contextmanager
def _alone_in(folder: Path, console: Console) -> Iterator[None]:
    """Wait until no other process trains in a folder."""
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


def main(words: list[str]) -> None:
    """Run `kd-lightning reproduce` with the words after it.

    Raises:
        UserError: a mistake in the command line, a config or the data.
    """
    # The recipe is the first word: argparse would take the value of an option it does not know for one.
    name, rest = (words[0], words[1:]) if words and not words[0].startswith("-") else (DEFAULT_RECIPE, words)
    options, overrides = reproduce_arguments().parse_known_args(rest)
    if options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds: {options.seeds} found, at least 1 expected")
    recipe = find_recipe(name)
    stages = recipe.choose(options.stages.split(",") if options.stages else None)
    console = quiet_console()
    plan = _plan(recipe, stages, options.seeds or recipe.seeds, options.runs, pairs(overrides, "reproduce", OWN))
    for number, run in enumerate(plan, start=1):
        stopping.check()
        label = f"[{number}/{len(plan)}] {recipe.name}: {run.stage.name}, seed {run.seed}"
        with _alone_in(run.folder, console):
            if run.done and not options.force:
                console.print(f"{label}: finished before, kept ({run.folder})")
                continue
            if run.trained and not options.force:
                console.print(f"{label}: trained before, tested again ({run.folder})")
                _test(run)
            else:
                goes_on = run.begun and not options.force
                console.print(f"{label}{', which was interrupted, goes on' if goes_on else ''}")
                _train_and_test(run, goes_on)
            results = read_results(run.folder)
            console.print(f"    {results['test']['errors']} errors, {results['fit']['seconds']:.1f} s")
    settings = {run.stage.name: run.settings for run in plan}
    comparison = collect(recipe, options.runs, shlex.join(["kd-lightning", "reproduce", *words]), settings)
    report = write_report(comparison, options.runs / recipe.name)
    console.print(terminal_table(comparison))
    print_warnings(comparison)
    console.print(f"results: {report}")
    console.print(f"next: tensorboard --logdir {options.runs / recipe.name}")


def _plan(recipe: Recipe, stages: list[Stage], seeds: int, runs: Path, overrides: list[list[str]]) -> list[Run]:
    """Read every config, and all test data, before anything is trained: no mistake in the last is worth waiting for."""
    plan: list[Run] = []
    data: dict[str, str] = {}
    taken: set[str] = set()
    for stage in stages:
        with line(f"reading the config of {stage.name}"):
            fitting = [pair for pair in overrides if _fits(stage, pair)]
        taken.update(pair[0] for pair in fitting)
        teacher = next((run for run in plan if run.stage.name == stage.teacher), None)
        options = [*stage.config_words, "--trainer.enable_model_summary=false", *stage.option_words]
        options += [f"--model.teacher_ckpt={teacher.folder}"] if teacher else []
        options += (
            ["--trainer.logger=null"] if any(pair[0].split("=")[0] == "--trainer.logger" for pair in fitting) else []
        )
        options += [word for pair in fitting for word in pair]
        with line(f"reading the config of {stage.name}"):
            config = lightning.parse(["fit", *options])
        check_logger(config["trainer"]["logger"], fitting)
        spawns_processes(config["trainer"])  # says what is wrong with its devices
        options_of_data = json.dumps(config["data"], sort_keys=True, default=str)
        if options_of_data not in data:
            data[options_of_data] = look_at(config["data"])
        files = data[options_of_data]
        for seed in range(stage.seeds or seeds):
            plan.append(_run(recipe, stage, seed, runs, options, config, files, teacher))
    for pair in overrides:
        if pair[0] not in taken:
            _parse_with(stages[-1], pair)  # says what is wrong with it
    return plan


def _parse_with(stage: Stage, pair: list[str]) -> dict[str, Any]:
    return lightning.parse(["fit", *stage.config_words, *pair])


def _fits(stage: Stage, pair: list[str]) -> bool:
    """Whether a stage has an option: a baseline has no temperature, say. Data and trainer options fit all or none."""
    if not pair[0].startswith("--model."):
        return True
    try:
        _parse_with(stage, pair)
    except UserError as error:
        if "not accepted" not in str(error):
            raise
        return False
    return True


def _run(
    recipe: Recipe,
    stage: Stage,
    seed: int,
    runs: Path,
    options: list[str],
    config: dict[str, Any],
    files: str,
    teacher: Run | None,
) -> Run:
    place = {"save_dir": str(runs), "name": f"{recipe.name}/{stage.name}", "version": f"seed_{seed}"}
    folder = runs / recipe.name / stage.name / f"seed_{seed}"
    loggers = loggers_of(config["trainer"]["logger"], folder, place)
    own = [
        f"--seed_everything={seed}",
        "--trainer.logger=null",  # of another class, options of the config's would be left
        f"--trainer.logger={json.dumps(loggers if len(loggers) > 1 else loggers[0])}",
    ]
    return Run(stage, seed, folder, [*options, *own], config, files)


def _train_and_test(run: Run, goes_on: bool) -> None:
    fit = ["fit", *run.options, f"--label={run.fingerprint}", *([f"--ckpt_path={run.last}"] if goes_on else [])]
    if spawns_processes(run.config["trainer"]):
        # Lightning starts the further processes by repeating this command line: it must be the stage's own.
        command = [sys.executable, "-m", "kd_lightning", *fit]
        if _process_of_its_own(command, {**os.environ, STAGE: run.stage.name}):
            raise UserError(f"{run.stage.name}, seed {run.seed}: fit failed, as said above")
        _test(run)
    else:
        trained = lightning.main(fit)
        checkpoint = resolve_checkpoint(run.folder, run.stage.name)
        trained.trainer.test(trained.model, trained.datamodule, ckpt_path=str(checkpoint), verbose=False)
        _sign(run)


def _test(run: Run) -> None:
    one_device = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    several = spawns_processes(run.config["trainer"])
    words = [*run.options, *(one_device if several else []), f"--ckpt_path={run.folder}", "--verbose=false"]
    lightning.main(["test", *words])
    _sign(run)


def _sign(run: Run) -> None:
    """Note in a run's results what its figures depend on."""
    tested = _tested(read_results(run.folder))
    update_results(run.folder, settings=run.settings, fingerprint=run.fingerprint, reproduced=tested)


def _tested(results: dict[str, Any]) -> dict[str, Any]:
    """What tells the test of a run from another one of it: what it was made on, and what it wrote."""
    return {**results.get("measured_on", {}), "parts": [part for part in TEST_PARTS if part in results]}


def _process_of_its_own(command: list[str], environment: dict[str, str]) -> int:
    """Run a command to its end; where this process is stopped, have the command stop too, and wait for it.

    Returns:
        Its exit status.

    Raises:
        Stopped: a signal has stopped this process, or that one.
    """
    with subprocess.Popen(command, env=environment) as process:
        try:
            status = process.wait()
        except (Stopped, KeyboardInterrupt):
            process.terminate()
            process.wait()
            raise
    if status in (130, 143):
        raise Stopped(status - 128)
    return status


def spawns_processes(trainer: dict[str, Any]) -> bool:
    """Whether Lightning starts further processes for a config's `trainer`."""
    if trainer["num_nodes"] > 1:
        return True
    devices = trainer["devices"]
    if isinstance(devices, str) and "," in devices:
        devices = [place for place in devices.split(",") if place.strip()]
    if isinstance(devices, list):
        return len(devices) > 1
    if devices is None or str(devices).strip() in ("auto", "-1"):
        return trainer["accelerator"] != "cpu" and torch.cuda.device_count() > 1
    try:
        return int(devices) > 1
    except ValueError as error:
        raise UserError(f"trainer.devices: {devices} found, a number, a list of numbers or auto expected") from error
