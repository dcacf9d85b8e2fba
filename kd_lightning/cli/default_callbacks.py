"""The callbacks that every command of the Lightning CLI has unless the user replaces or disables them."""

import csv
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder, ProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from kd_lightning.callbacks import (
    BestCheckpoint,
    Dashboard,
    Describer,
    Gallery,
    LastCheckpoint,
    PredictionWriter,
    ResultsWriter,
)
from kd_lightning.checkpoints.description import plain_network
from kd_lightning.errors import UserError

Disabled = list[
    Literal[
        "BestCheckpoint", "Dashboard", "Describer", "Gallery", "LastCheckpoint", "PredictionWriter", "ResultsWriter"
    ]
]
"""Type of `--disable_callbacks`: names of default callbacks."""

PROGRESS_EVERY = 50
"""Steps between two updates of the progress bar: updated at every step, it would take longer than a small network."""


def add_default_callbacks(command: str, options: Any, trainer: Any, module: LightningModule) -> list[Callback]:
    """Return the user's callbacks, and each default one that the user has neither given nor disabled.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        options: all options of the command.
        trainer: the trainer's options, with the user's callbacks made.
        module: the module that the trainer runs.

    Raises:
        UserError: a callback that `module` cannot serve.
    """
    given = trainer.get("callbacks") or []
    callbacks: list[Any] = [*given] if isinstance(given, list) else [given]
    for callback in callbacks:
        names = (callback._attr_name, "lr", "learning_rate") if isinstance(callback, LearningRateFinder) else ()
        if names and not any(name and hasattr(module, name) for name in names):
            raise UserError(
                "callbacks: LearningRateFinder found, which sets the attribute `lr` of a module, and "
                f"{type(module).__name__} has none; compare rates with --model.optimizer.lr"
            )
    defaults: list[Any] = [
        Describer(plain_network((options.model.get("init_args") or {}).get("net"))),
        ResultsWriter(options.label, options.overwrite),
        Dashboard(),
    ]
    if options.pictures:
        defaults.append(Gallery())
    if trainer.get("enable_checkpointing") is not False and not trainer.get("barebones"):
        defaults += [BestCheckpoint(), LastCheckpoint()]
    if command == "predict":
        defaults.append(PredictionWriter())
    for default in defaults:
        users = [callback for callback in callbacks if isinstance(callback, type(default))]
        if not users and type(default).__name__ not in options.disable_callbacks:
            callbacks.append(default)
        elif users and isinstance(default, ResultsWriter):
            users[0].label = options.label or users[0].label
            users[0].overwrite |= options.overwrite
    return callbacks


def add_progress_bar(callbacks: list[Callback], trainer: Any) -> bool | None:
    """Add a progress bar that is updated every 50 steps, on a terminal or where one is asked for.

    Returns:
        The trainer's `enable_progress_bar`: False where output is a file, in which a bar is a line an epoch.
    """
    enabled: bool | None = trainer.get("enable_progress_bar")
    if any(isinstance(callback, ProgressBar) for callback in callbacks):
        return enabled  # the user's own bar, with the user's own option
    if enabled is False or not (enabled or (sys.stdout is not None and sys.stdout.isatty())):
        return False
    callbacks.append(TQDMProgressBar(refresh_rate=PROGRESS_EVERY))
    return enabled


def append_to_metrics(trainer: Trainer) -> None:
    """Let CSV loggers append to the `metrics.csv` of a run that is resumed or tested; Lightning would delete it."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        file = Path(logger.log_dir, "metrics.csv") if isinstance(logger, CSVLogger) else None
        if isinstance(logger, CSVLogger) and file and file.is_file():
            aside = file.rename(file.with_name(".metrics.csv"))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"Experiment logs directory .* exists")
                experiment = logger.experiment
            aside.replace(file)
            with file.open(newline="") as rows:
                experiment.metrics_keys = next(csv.reader(rows), [])
