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
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from kd_lightning import cli, stopping
from kd_lightning.commands.closing import STAGE
from kd_lightning.commands.comparison import collect
from kd_lightning.commands.options import DEFAULT_RECIPE, reproduce_arguments
from kd_lightning.commands.recipe import CONFIGS, Recipe, Stage, find_recipe
from kd_lightning.commands.report import write_report
from kd_lightning.commands.table import terminal_table
from kd_lightning.commands.terminal import quiet_console
from kd_lightning.commands.words import pairs
from kd_lightning.errors import UserError
from kd_lightning.results import label_of, read_results, update_results
from kd_lightning.stopping import Stopped
from kd_lightning.teachers import resolve_checkpoint
from kd_lightning.waiting import line
from kd_lightning.weights_file import read_weights

OWN = ("--seed_everything", "--trainer.logger", "--ckpt_path", "--label")
"""Options of `fit` that say which run it is."""

LOGGER = "lightning.pytorch.loggers.TensorBoardLogger"


@dataclass(frozen=True)
class Run:
    """One training: a stage with one seed, in a folder of its own."""

    stage: Stage
    seed: int
    folder: Path
    options: list[str]
    config: dict[str, Any]
    settings: str
    """A digest of every option but the seed, of the data's files and of the teacher's run."""

    @property
    def fingerprint(self) -> str:
        """What the figures depend on."""
        return f"{self.settings}-{self.seed}"

    @property
    def done(self) -> bool:
        """Whether it was trained and tested with these very options."""
        results = read_results(self.folder)
        return results.get("fingerprint") == self.fingerprint and "test" in results

    @property
    def begun(self) -> bool:
        """Whether a training with these very options was interrupted, or not tested, and can go on."""
        try:
            return label_of(read_weights(self.last, "ckpt_path")) == self.fingerprint
        except (OSError, UserError):  # none, or a damaged one
            return False

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
    recipe = find_recipe(name, CONFIGS)
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
            goes_on = run.begun and not options.force
            console.print(f"{label}{', which was interrupted, goes on' if goes_on else ''}")
            _carry_out(run, goes_on)
            results = read_results(run.folder)
            console.print(f"    {results['test']['errors']} errors, {results['fit']['seconds']:.1f} s")
    comparison = collect(recipe, options.runs, shlex.join(["kd-lightning", "reproduce", *words]))
    report = write_report(comparison, options.runs / recipe.name)
    console.print(terminal_table(comparison))
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
        options = [
            *stage.config_words,
            "--trainer.enable_model_summary=false",
            f"--trainer.logger={LOGGER}",
            "--trainer.logger.save_dir=lightning_logs",  # the class asks for one; each run then has its own
        ]
        options += stage.option_words
        options += [f"--model.teacher_ckpt={teacher.folder}"] if teacher else []
        options += [word for pair in fitting for word in pair]
        with line(f"reading the config of {stage.name}"):
            config = cli.parse(["fit", *options])
        options_of_data = json.dumps(config["data"], sort_keys=True, default=str)
        if options_of_data not in data:
            data[options_of_data] = _look_at(config["data"])
        files = data[options_of_data]
        for seed in range(stage.seeds or seeds):
            plan.append(_run(recipe, stage, seed, runs, options, config, files, teacher))
    for pair in overrides:
        if pair[0] not in taken:
            _parse_with(stages[-1], pair)  # says what is wrong with it
    return plan


def _look_at(data: dict[str, Any]) -> str:
    """See that there is something to test on; what tells the data from other data under the same options."""
    module = cli.build_data(data)
    module.prepare_data()
    module.setup("test")
    return getattr(module, "fingerprint", "")


def _parse_with(stage: Stage, pair: list[str]) -> dict[str, Any]:
    return cli.parse(["fit", *stage.config_words, *pair])


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
    own = [
        f"--seed_everything={seed}",
        f"--trainer.logger.save_dir={runs}",
        f"--trainer.logger.name={recipe.name}/{stage.name}",
        f"--trainer.logger.version=seed_{seed}",
    ]
    teacher_run = teacher.fingerprint if teacher else None
    depends_on = {**config, "seed_everything": None, "files": files, "teacher": teacher_run}
    settings = hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=str).encode()).hexdigest()
    folder = runs / recipe.name / stage.name / f"seed_{seed}"
    return Run(stage, seed, folder, [*options, *own], config, settings)


def _carry_out(run: Run, goes_on: bool) -> None:
    fit = ["fit", *run.options, f"--label={run.fingerprint}", *([f"--ckpt_path={run.last}"] if goes_on else [])]
    if spawns_processes(run.config["trainer"]):
        # Lightning starts the further processes by repeating this command line: it must be the stage's own.
        command = [sys.executable, "-m", "kd_lightning", *fit]
        if _process_of_its_own(command, {**os.environ, STAGE: run.stage.name}):
            raise UserError(f"{run.stage.name}, seed {run.seed}: fit failed, as said above")
        one_device = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
        cli.main(["test", *run.options, *one_device, f"--ckpt_path={run.folder}", "--verbose=false"])
    else:
        trained = cli.main(fit)
        checkpoint = resolve_checkpoint(run.folder, run.stage.name)
        trained.trainer.test(trained.model, trained.datamodule, ckpt_path=str(checkpoint), verbose=False)
    update_results(run.folder, settings=run.settings, fingerprint=run.fingerprint)


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
    devices = trainer["devices"]
    if trainer["num_nodes"] > 1:
        return True
    if devices in ("auto", -1, "-1"):
        return trainer["accelerator"] != "cpu" and torch.cuda.device_count() > 1
    return (len(devices) if isinstance(devices, list) else int(devices)) > 1
