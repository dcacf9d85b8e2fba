"""The folder of a run, which does not depend on the number and kind of its loggers."""

import os
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger


def run_folder(trainer: Trainer) -> Path:
    """Return the folder of all files of a run: config, checkpoints, results, pictures, predictions.

    It is `save_dir/name/version` of the `leading_logger` (W&B: project and run id); without a logger, the trainer's
    `default_root_dir`. All processes of a run have to call this function: the first one decides.
    """
    logger = leading_logger(trainer.loggers) if trainer.logger else None
    if logger is None:
        return Path(trainer.log_dir or trainer.default_root_dir)
    return Path(trainer.strategy.broadcast(str(folder_of(logger, trainer.default_root_dir))))


def has_own_folder(trainer: Trainer) -> bool:
    """Return whether a logger created the run folder for the run; if not, it may hold files of the user."""
    return trainer.logger is not None and not isinstance(trainer.logger, DummyLogger)  # of `fast_dev_run`


def leading_logger(loggers: Sequence[Logger]) -> Logger | None:
    """Return the logger whose folder is the run folder: the first TensorBoard logger, else CSV logger, else any.

    The folder depends neither on the order of several loggers nor on an online service beside files.
    """
    for kind in (TensorBoardLogger, CSVLogger, Logger):
        for logger in loggers:
            if isinstance(logger, kind):
                return logger
    return None


def folder_of(logger: Logger, otherwise: str) -> Path:
    """Return the folder of a logger's run, as Lightning does for checkpoints; `otherwise` replaces no `save_dir`."""
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    folder = os.path.join(logger.save_dir or otherwise, str(logger.name or ""), version)  # noqa: PTH118
    if isinstance(logger, TensorBoardLogger):  # expands them itself when it writes
        folder = os.path.expanduser(os.path.expandvars(folder))  # noqa: PTH111
    return Path(folder)
