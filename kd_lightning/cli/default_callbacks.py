"""The callbacks that every command of the Lightning CLI has unless the user replaces or disables them."""

import csv
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, ProgressBar, TQDMProgressBar
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
from kd_lightning.callbacks.plots.gallery import PLOTS
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


def add_default_callbacks(command: str, options: Any, trainer: Any) -> list[Callback]:
    """Return the user's callbacks, and each default one that the user has neither given nor disabled.

    A callback of a default one's class, or of a subclass, replaces it. Options of the command that a default callback
    would get are passed to it.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        options: all options of the command.
        trainer: the trainer's options, with the user's callbacks instantiated.

    Raises:
        UserError: `predict` without a callback that writes predictions.
    """
    given = trainer.get("callbacks") or []
    callbacks: list[Any] = [*given] if isinstance(given, list) else [given]
    network = plain_network((options.model.get("init_args") or {}).get("net"))
    defaults: list[Any] = [Describer(network), ResultsWriter(options.label, options.overwrite), Dashboard()]
    if options.pictures:
        defaults.append(Gallery([plot for plot in PLOTS if not _instances(callbacks, plot)]))
    if trainer.get("enable_checkpointing") is not False and not trainer.get("barebones"):
        defaults += [BestCheckpoint(), LastCheckpoint()]
    if command == "predict":
        defaults.append(PredictionWriter())
    for callback in _instances(callbacks, ResultsWriter):
        callback.label = options.label or callback.label
        callback.overwrite |= options.overwrite
    for callback in _instances(callbacks, Describer):
        callback.network = callback.network or network
    for default in defaults:
        if not _instances(callbacks, type(default)) and type(default).__name__ not in options.disable_callbacks:
            callbacks.append(default)
    if command == "predict" and not _instances(callbacks, BasePredictionWriter):
        raise UserError(
            "disable_callbacks: PredictionWriter found, but predict writes nothing without it; "
            "a BasePredictionWriter in trainer.callbacks expected"
        )
    return callbacks


def _instances(callbacks: list[Any], kind: type[Callback]) -> list[Any]:
    return [callback for callback in callbacks if isinstance(callback, kind)]


def add_progress_bar(callbacks: list[Callback], trainer: Any) -> bool | None:
    """Add a progress bar that is updated every 50 steps, on a terminal or if `enable_progress_bar` is set.

    Returns:
        The trainer's `enable_progress_bar`: False where output is a file, in which a bar is a line an epoch.
    """
    enabled: bool | None = trainer.get("enable_progress_bar")
    if _instances(callbacks, ProgressBar):
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
