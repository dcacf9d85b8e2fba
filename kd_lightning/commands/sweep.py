"""`kd-lightning sweep`: train students for a grid of temperatures, soft weights and seeds, many at once.

With `--space` it searches any options instead, see `search`.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
import yaml
from lightning.pytorch.loggers import Logger

from kd_lightning.callbacks.plots.write import send
from kd_lightning.cli import lightning
from kd_lightning.cli.arguments import STACK_SIZE, sweep_arguments
from kd_lightning.cli.next_steps import finish_loggers
from kd_lightning.cli.parser import pairs
from kd_lightning.cli.run_config import DEFAULT_LOGGER, build_logger
from kd_lightning.commands.loggers import chosen_loggers, loggers_of_run, override_words
from kd_lightning.commands.processes import spawns_processes
from kd_lightning.commands.reproduce import RUN_OPTIONS
from kd_lightning.commands.search import search
from kd_lightning.errors import UserError
from kd_lightning.losses import soft_target_loss
from kd_lightning.modules import DistillModule
from kd_lightning.modules.stack import why_not_stacked
from kd_lightning.reports.sweep import Result, Student, best_cell, draw_grid, terminal_table, write_csv, write_events
from kd_lightning.schedules import ValueSchedule
from kd_lightning.utils.atomic_write import atomic_write, write_text
from kd_lightning.utils.terminal import quiet_console

STUDENT_OPTIONS = (
    "--config",
    "--model.temperature",
    "--model.soft_weight",
    "--model.class_path",
    "--seed_everything",
    "--data.seed",
    "--trainer.enable_checkpointing",
    "--ckpt_path",
)
"""Options of `fit` that `sweep` sets for each student."""

GRID_OPTIONS = ("temperatures", "soft_weights", "seeds", "at_once")
"""Options of the grid, which a search of a space does not have."""

HEAT_MAP = "accuracy.png"

STACK_MODULE = "kd_lightning.modules.PopulationModule"

NOT_STACKED = (
    "temperature",
    "soft_weight",
    "soft_loss",
    "standardise_logits",
    "features",
    "feature_weight",
    "losses",
)
"""Options of `DistillModule` that `STACK_MODULE` lacks."""

ELEMENTWISE_OPTIMIZERS = {"SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta"}
"""Optimizers of torch that update each weight independently of the others, so that stacked students do not mix."""


def main(words: list[str]) -> None:
    """Run `kd-lightning sweep` with the words after it.

    Raises:
        UserError: a mistake in the command line, the config or the data.
    """
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        raise UserError(f"sweep: {words[0]} found, the config of a distilled student expected first")
    options, further = sweep_arguments().parse_known_args(words)
    of_grid = [name for name in GRID_OPTIONS if getattr(options, name) is not None]
    if options.space:
        if of_grid:
            raise UserError(f"sweep: --{of_grid[0]} found with --space, which has values of any option")
        search(options, pairs(further, "sweep", RUN_OPTIONS))
        return
    if not (options.temperatures and options.soft_weights):
        raise UserError("sweep: --temperatures and --soft_weights expected, or --space FILE")
    if options.tries is not None:
        raise UserError(f"sweep: --tries {options.tries} found without --space, whose settings it counts")
    seeds = range(options.seeds or 1)
    grid = [Student(*place) for place in product(options.temperatures, options.soft_weights, seeds)]
    console = quiet_console()
    overrides = override_words(pairs(further, "sweep", STUDENT_OPTIONS))
    given = lightning.parse(["fit", f"--config={options.config}", *overrides])
    folder = options.runs / "sweep" / "_".join(filter(None, (options.config.parent.name, options.config.stem)))
    chosen = chosen_loggers(given["trainer"]["logger"], "sweep")
    config = _base_config(given, folder)
    reason = _reason_not_to_stack(config)
    if reason:
        console.print(f"one student after another: {reason}")
    size = 1 if reason else options.at_once or STACK_SIZE
    results: list[Result] = []
    for start in range(0, len(grid), size):
        students = grid[start : start + size]
        console.print(f"students {start + 1} to {start + len(students)} of {len(grid)}")
        results += _train_one(config, students[0]) if reason else _train_stack(config, students)
        write_csv(folder / "sweep.csv", results)
    figure = draw_grid(results)
    with atomic_write(folder / HEAT_MAP) as temporary:
        figure.savefig(temporary)
    by_default = not chosen and given["trainer"]["logger"] is not False
    events = by_default or any(each["class_path"] == DEFAULT_LOGGER for each in chosen)
    if events:
        write_events(folder, results, figure)
    log_students([each for each in chosen if each["class_path"] != DEFAULT_LOGGER], folder, results)
    temperature, soft_weight = best_cell(results)
    best = _config_of(config, Student(temperature, soft_weight, 0))
    loggers = loggers_of_run(chosen, options.runs, f"sweep/{folder.name}_best", "seed_0")
    best["trainer"] = {**given["trainer"], "logger": loggers if loggers[1:] else loggers[0]}
    write_text(folder / "best.yaml", yaml.safe_dump(best, sort_keys=False))
    console.print(terminal_table(results))
    shown = f"; tensorboard --logdir {folder}" if events else ""
    console.print(f"results: {folder} (sweep.csv, accuracy.png, best.yaml{shown})")
    console.print(f"next: kd-lightning fit --config {folder}/best.yaml")


def log_students(chosen: list[dict[str, Any]], folder: Path, results: Sequence[Result]) -> None:
    """Log a run for each student with its options and figures, and one with the heat map, to each chosen logger.

    Args:
        chosen: see `chosen_loggers`; without TensorBoard's.
        folder: of the sweep; it has the heat map.
        results: of the students.
    """
    for config in chosen:
        for student, accuracy, nll in results:
            logger = _logger_of(config, folder, student.name)
            logger.log_hyperparams(student._asdict())
            logger.log_metrics({"val/accuracy": accuracy, "val/nll": nll}, step=0)
            logger.finalize("success")
            finish_loggers()
        logger = _logger_of(config, folder, "all")
        send(logger, "sweep/accuracy", folder / HEAT_MAP)
        logger.finalize("success")
        finish_loggers()


def _logger_of(config: dict[str, Any], folder: Path, run: str) -> Logger:
    _, logger = loggers_of_run([config], folder.parents[1], f"sweep/{folder.name}", run)
    return build_logger(logger)


def _base_config(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the config that all students share: no run folder of its own, and one order of the images.

    Raises:
        UserError: its model is no `DistillModule`, or it trains on several devices.
    """
    if locate(given["model"]["class_path"]) is not DistillModule:
        raise UserError(f"sweep: a {given['model']['class_path']} found in the config, a DistillModule expected")
    if spawns_processes(given["trainer"]):
        raise UserError("sweep: several devices found, one expected (--trainer.devices 1)")
    config = deepcopy(given)
    config.update(ckpt_path=None, stage=None)
    config["data"]["init_args"]["seed"] = int(config["seed_everything"] or 0)
    config["trainer"].update(logger=False, enable_checkpointing=False, enable_model_summary=False)
    config["trainer"]["default_root_dir"] = str(folder / "last")  # each training replaces the files of the previous one
    return config


def _reason_not_to_stack(config: dict[str, Any]) -> str:
    """Return why the students cannot be trained as one stacked network; empty if they can.

    Raises:
        UserError: there are no validation images to compare students on.
    """
    built = lightning.build(["fit", f"--config={json.dumps(config)}"])
    data, network = built.datamodule, built.model.net
    data.prepare_data()
    data.setup("fit")
    if not len(data.val_positions):
        raise UserError("val_size: 0 found, at least 1 expected: students are compared on images held out of training")
    model, trainer = config["model"]["init_args"], config["trainer"]
    optimizer, schedule = (_class_name(model[part]) for part in ("optimizer", "lr_scheduler"))
    if model["features"]:
        return "features of inner layers are matched"
    if model["losses"]:
        return "there are further losses"
    if model["standardise_logits"]:
        return "logits are standardised"
    if isinstance(built.model.hard_weight, ValueSchedule):
        return "hard_weight is a schedule"
    if getattr(built.model.teacher.network, "temperature", None) is not None:
        return "the teacher averages probabilities at one temperature"
    if built.model.soft_loss is not soft_target_loss:
        named = model["soft_loss"]
        return f"the soft loss is {named if isinstance(named, str) else named['class_path']}"
    if optimizer not in ELEMENTWISE_OPTIMIZERS:
        return f"{optimizer} does not update each weight independently"
    if schedule == "ReduceLROnPlateau":
        return f"{schedule} monitors a single student"
    if trainer["gradient_clip_val"] is not None:
        return "gradients are clipped by their norm"
    return why_not_stacked(network.train(), torch.zeros(2, *data.image_shape))


def _class_name(part: Any) -> str:
    path = part["class_path"] if isinstance(part, dict) else str(part)
    return path.rpartition(".")[2]


def _config_of(config: dict[str, Any], student: Student) -> dict[str, Any]:
    """Return the config that trains one student alone."""
    config = deepcopy(config)
    config["seed_everything"] = student.seed
    config["model"]["init_args"].update(temperature=student.temperature, soft_weight=student.soft_weight)
    return config


def _train_one(config: dict[str, Any], student: Student) -> list[Result]:
    trained = lightning.main(["fit", f"--config={json.dumps(_config_of(config, student))}"])
    figures = trained.trainer.callback_metrics
    return [Result(student, figures["val/accuracy"].item(), figures["val/nll"].item())]


def _train_stack(config: dict[str, Any], students: list[Student]) -> list[Result]:
    config = deepcopy(config)
    options = config["model"]["init_args"]
    for name in NOT_STACKED:
        del options[name]
    config["model"] = {"class_path": STACK_MODULE, "init_args": {**options, "members": [list(s) for s in students]}}
    figures = lightning.main(["fit", f"--config={json.dumps(config)}"]).model.figures
    # Of a single student, torchmetrics makes a scalar.
    accuracies, nlls = (figures[name].reshape(-1).tolist() for name in ("accuracy", "nll"))
    return [Result(*of_student) for of_student in zip(students, accuracies, nlls, strict=True)]
