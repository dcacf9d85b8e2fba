"""`kd-lightning sweep --space`: search the values of any options on validation images, with Optuna.

A space is a YAML of options by dotted name. Each has a list of values, or a range:

    model.hard_weight: [0.0, 0.1, 0.5]
    model.temperature: {low: 1.0, high: 20.0}
    model.optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
    trainer.max_epochs: {low: 10, high: 50, step: 10}
"""

import argparse
import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from kd_lightning.cli.arguments import TRIES
from kd_lightning.commands.loggers import chosen_loggers, loggers_of_run, override_words
from kd_lightning.commands.plan import Run, StagePlan
from kd_lightning.commands.reproduce import complete
from kd_lightning.commands.tries import DIVERGED, choose, write_choice
from kd_lightning.errors import UserError, one_line
from kd_lightning.reports.results import read_results
from kd_lightning.stage import Stage
from kd_lightning.utils.atomic_write import write_text
from kd_lightning.utils.extras import need_packages
from kd_lightning.utils.terminal import quiet_console

RANGE = ("low", "high", "log", "step")
"""Keys of a range of numbers."""


def search(options: argparse.Namespace, overrides: list[list[str]]) -> None:
    """Try settings of a space, each chosen by the figures of those before, and write the best one's config.

    The settings are drawn by Optuna's tree-structured Parzen estimator with a fixed seed (Bergstra et al. 2011,
    Algorithms for hyper-parameter optimization, section 4), so that a search that is called again draws the same ones:
    it keeps those that were finished, resumes an interrupted one, and goes on. Each is trained once, and validated at
    its last checkpoint on images that its training does not see; no test image is read.

    Args:
        options: of `kd-lightning sweep`.
        overrides: options of `fit` for all tries.

    Raises:
        UserError: a mistake in the space, the config, an option or the data; Optuna is not installed.
    """
    need_packages("optuna")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = read_space(options.space)
    name = "_".join(filter(None, (options.config.parent.name, options.config.stem, options.space.stem)))
    words = [f"--config={options.config}", "--trainer.enable_model_summary=false", *override_words(overrides)]
    plan = StagePlan(Stage(name, options.config), 1, words, overrides, {}, (options.runs, f"sweep/{name}"), {}, "sweep")
    console = quiet_console()
    tries = options.tries or TRIES
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    runs: list[Run] = []
    for number in range(1, tries + 1):
        trial = study.ask()
        setting = {option: _draw(trial, option, values) for option, values in space.items()}
        earlier = next((run for run in runs if run.setting == setting), None)
        run = earlier or plan.try_of(setting, number)
        prefix = f"[{number}/{tries}] sweep"
        if earlier:
            console.print(f"{prefix}: the setting of try {earlier.try_number} again")
        else:
            complete(run, f"{prefix} ({_in_words(setting)})", False, console)
            runs.append(run)
        figures = read_results(run.folder)["val"]
        if DIVERGED in figures:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, figures["accuracy"])
        write_text(plan.folder / "sweep.csv", _csv(runs, list(space)))
    folders = [run.folder for run in runs]
    place = choose(name, folders)
    write_choice(plan.folder, replace(plan.stage, tries=[run.setting for run in runs]), folders, place)
    best = _config_of_best(plan, runs[place])
    write_text(plan.folder / "best.yaml", yaml.safe_dump(best, sort_keys=False))
    console.print(_table(runs, list(space), place))
    console.print(f"results: {plan.folder} (sweep.csv, tries.json, best.yaml); tensorboard --logdir {plan.folder}")
    console.print(f"next: kd-lightning fit --config {plan.folder}/best.yaml")


def read_space(file: Path) -> dict[str, Any]:
    """Read the options to search: a list of values each, or a range of numbers.

    Raises:
        UserError: the file cannot be read, or an option has something else.
    """
    try:
        space = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--space: {file} cannot be read ({one_line(error)})") from error
    if not isinstance(space, dict) or not space or not all(isinstance(option, str) for option in space):
        raise UserError(f"--space: {file}: options by dotted name expected, as in model.temperature: [2, 4, 8]")
    for option, values in space.items():
        if reason := _what_is_wrong(values):
            raise UserError(f"--space: {file}: {option}: {reason}")
    return space


def _what_is_wrong(values: Any) -> str:
    """Return what is wrong with the values of an option; empty if nothing is."""
    if isinstance(values, list):
        return "" if values else "no values found, at least 1 expected"
    if not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= set(RANGE):
        return f"{_as_json(values)} found, a list of values or a range {{low, high, log, step}} expected"
    low, high, step = values["low"], values["high"], values.get("step")
    numbers = [low, high, *([] if step is None else [step])]
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        return f"{numbers} found, numbers expected (1.0e-4 in YAML, as 1e-4 is a text)"
    is_log = values.get("log", False)
    if not isinstance(is_log, bool) or (is_log and step is not None):
        return "log: true or false expected, and no step with true"
    if low > high or (is_log and low <= 0) or (step is not None and step <= 0):
        return f"{numbers} found, low <= high expected, above 0 with log, and a step above 0"
    return ""


def _as_json(value: Any) -> str:
    """Return a value as a short line."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _draw(trial: Any, option: str, values: Any) -> Any:
    if isinstance(values, list):  # by position, as Optuna takes no lists and dictionaries for values
        return values[trial.suggest_categorical(option, list(range(len(values))))]
    kind = {"log": values.get("log", False), "step": values.get("step")}
    if all(type(values[name]) is int for name in ("low", "high")) and type(kind["step"]) is not float:
        return trial.suggest_int(option, values["low"], values["high"], log=kind["log"], step=kind["step"] or 1)
    return trial.suggest_float(option, values["low"], values["high"], **kind)


def _in_words(setting: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in setting.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _as_json(value)


def _figures(run: Run) -> tuple[float | None, float | None]:
    """Return accuracy and negative log-likelihood on the validation images; None of a try that diverged."""
    figures = read_results(run.folder)["val"]
    return figures.get("accuracy"), figures.get("nll")


def _csv(runs: list[Run], options: list[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["try", *options, "accuracy", "nll"])
    for run in runs:
        values = [run.setting[option] for option in options]
        cells = [value if isinstance(value, int | float | str) else json.dumps(value) for value in values]
        writer.writerow([run.try_number, *cells, *_figures(run)])
    return text.getvalue()


def _table(runs: list[Run], options: list[str], best: int) -> Table:
    """Return a table of the tries, the best first."""
    table = Table(title="On the validation images", caption="each trained once; the first is the best")
    for heading in ("try", *options, "accuracy", "nll"):
        table.add_column(heading, justify="right", overflow="fold")
    figures = [_figures(run) for run in runs]
    order = sorted(range(len(runs)), key=lambda i: (i != best, -(figures[i][0] or 0), figures[i][1] or math.inf, i))
    for i in order:
        accuracy, nll = figures[i]
        shown = ["diverged", ""] if accuracy is None or nll is None else [f"{accuracy:.2%}", f"{nll:.4f}"]
        table.add_row(str(runs[i].try_number), *(_short(runs[i].setting[option]) for option in options), *shown)
    return table


def _config_of_best(plan: StagePlan, run: Run) -> dict[str, Any]:
    """Return the config of a try, with a run folder beside that of the search."""
    trainer = run.config["trainer"]
    loggers = loggers_of_run(
        chosen_loggers(trainer["logger"], plan.command), plan.place[0], f"{plan.place[1]}_best", "seed_0"
    )
    config = {**run.config, "trainer": {**trainer, "logger": loggers if loggers[1:] else loggers[0]}}
    return {**config, "seed_everything": run.seed}
