"""A grid of temperatures, soft weights and seeds: many students of one teacher, trained at once."""

import json
from copy import deepcopy
from itertools import product
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
import yaml

from kd_lightning.cli import lightning
from kd_lightning.cli.arguments import sweep_arguments
from kd_lightning.cli.parser import pairs
from kd_lightning.commands.processes import spawns_processes
from kd_lightning.errors import UserError
from kd_lightning.losses import soft_target_loss
from kd_lightning.modules import DistillModule
from kd_lightning.modules.stack import why_not_stacked
from kd_lightning.reports.sweep import Result, Student, best_cell, draw_grid, terminal_table, write_csv, write_events
from kd_lightning.utils.atomic_write import whole_file, write_text
from kd_lightning.utils.terminal import quiet_console

OWN = (
    "--config",
    "--model.temperature",
    "--model.soft_weight",
    "--model.class_path",
    "--seed_everything",
    "--data.seed",
    "--trainer.logger",
    "--trainer.enable_checkpointing",
    "--ckpt_path",
)
"""Options of `fit` that say which student it is, and where it goes."""

POPULATION = "kd_lightning.modules.PopulationModule"

WEIGHT_BY_WEIGHT = {"SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta"}
"""torch's optimizers that do to each weight what they would do were it alone."""


def main(words: list[str]) -> None:
    """Run `kd-lightning sweep` with the words after it.

    Raises:
        UserError: a mistake in the command line, the config or the data.
    """
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        raise UserError(f"sweep: {words[0]} found, a config expected first, of a student that is distilled")
    options, overrides = sweep_arguments().parse_known_args(words)
    grid = [Student(*place) for place in product(options.temperatures, options.soft_weights, range(options.seeds))]
    console = quiet_console()
    fit_words = [f"--config={options.config}", *(word for pair in pairs(overrides, "sweep", OWN) for word in pair)]
    asked_for = lightning.parse(["fit", *fit_words])
    folder = options.runs / "sweep" / f"{options.config.parent.name}_{options.config.stem}"
    config = _shared(asked_for, folder)
    reason = _why_one_by_one(config)
    if reason:
        console.print(f"one student after another: {reason}")
    size = 1 if reason else options.at_once
    results: list[Result] = []
    for start in range(0, len(grid), size):
        students = grid[start : start + size]
        console.print(f"students {start + 1} to {start + len(students)} of {len(grid)}")
        results += _alone(config, students[0]) if reason else _together(config, students)
        write_csv(folder / "sweep.csv", results)
    figure = draw_grid(results)
    with whole_file(folder / "accuracy.png") as draft:
        figure.savefig(draft)
    write_events(folder, results, figure)
    temperature, soft_weight = best_cell(results)
    best = _one_of(config, Student(temperature, soft_weight, 0))
    best["trainer"] = {**asked_for["trainer"], "logger": _logger(options.runs, f"{folder.name}_best")}
    write_text(folder / "best.yaml", yaml.safe_dump(best, sort_keys=False))
    console.print(terminal_table(results))
    console.print(f"results: {folder} (sweep.csv, accuracy.png, best.yaml; tensorboard --logdir {folder})")
    console.print(f"next: kd-lightning fit --config {folder}/best.yaml")


def _shared(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What all students have in common: a config without a run of its own, and one order of the images."""
    if locate(config["model"]["class_path"]) is not DistillModule:
        raise UserError(f"sweep: a {config['model']['class_path']} found in the config, a DistillModule expected")
    if spawns_processes(config["trainer"]):
        raise UserError("sweep: several devices found, one expected (--trainer.devices 1)")
    config = deepcopy(config)
    config.update(ckpt_path=None)
    config["data"]["init_args"]["seed"] = int(config["seed_everything"] or 0)
    config["trainer"].update(logger=False, enable_checkpointing=False, enable_model_summary=False)
    config["trainer"]["default_root_dir"] = str(folder / "last")  # what a training leaves, the next one replaces
    return config


def _why_one_by_one(config: dict[str, Any]) -> str:
    """What keeps the students from being trained at once; empty if nothing does. Looks at the data, too."""
    built = lightning.build(["fit", f"--config={json.dumps(config)}"])
    data, network = built.datamodule, built.model.net
    data.prepare_data()
    data.setup("fit")
    if not len(data.val_positions):
        raise UserError("val_size: 0 found, at least 1 expected: students are compared on images held out of training")
    model, trainer = config["model"]["init_args"], config["trainer"]
    optimizer, schedule = (_name_of(model[part]) for part in ("optimizer", "lr_scheduler"))
    if model["features"]:
        return "layers are matched"
    if built.model.soft_loss is not soft_target_loss:
        named = model["soft_loss"]
        return f"the soft loss is {named if isinstance(named, str) else named['class_path']}"
    if optimizer not in WEIGHT_BY_WEIGHT:
        return f"{optimizer} does not treat each weight by itself"
    if schedule == "ReduceLROnPlateau":
        return f"{schedule} watches a figure of one student"
    if trainer["gradient_clip_val"] is not None:
        return "gradients are clipped by their norm"
    return why_not_stacked(network.train(), torch.zeros(2, *data.image_shape))


def _name_of(part: Any) -> str:
    path = part["class_path"] if isinstance(part, dict) else str(part)
    return path.rpartition(".")[2]


def _one_of(config: dict[str, Any], student: Student) -> dict[str, Any]:
    """The config of one student, trained alone."""
    config = deepcopy(config)
    config["seed_everything"] = student.seed
    config["model"]["init_args"].update(temperature=student.temperature, soft_weight=student.soft_weight)
    return config


def _alone(config: dict[str, Any], student: Student) -> list[Result]:
    trained = lightning.main(["fit", f"--config={json.dumps(_one_of(config, student))}"])
    figures = trained.trainer.callback_metrics
    return [Result(student, figures["val/accuracy"].item(), figures["val/nll"].item())]


def _together(config: dict[str, Any], students: list[Student]) -> list[Result]:
    config = deepcopy(config)
    options = config["model"]["init_args"]
    for name in ("temperature", "soft_weight", "soft_loss", "features", "feature_weight"):
        del options[name]
    config["model"] = {"class_path": POPULATION, "init_args": {**options, "members": [list(s) for s in students]}}
    figures = lightning.main(["fit", f"--config={json.dumps(config)}"]).model.figures
    # torchmetrics makes a scalar of one student's.
    pairs_of = zip(students, *(figures[name].reshape(-1).tolist() for name in ("accuracy", "nll")), strict=True)
    return [Result(student, accuracy, nll) for student, accuracy, nll in pairs_of]


def _logger(runs: Path, name: str) -> dict[str, Any]:
    options = {"save_dir": str(runs), "name": f"sweep/{name}", "version": "seed_0"}
    return {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": options}
