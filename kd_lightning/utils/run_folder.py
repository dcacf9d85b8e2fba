"""Where the files of a run are, whichever loggers it has, and how many."""

import os
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger


def run_folder(trainer: Trainer) -> Path:
    """The folder that holds all files of a run: config, checkpoints, results, pictures, predictions.

    It is `save_dir/name/version` of the logger that leads (see `leading_logger`; of W&B's, name and version are the
    project and the run's id); without a logger the trainer's `default_root_dir`.

    The processes of a run agree on it: each has to call this function.
    """
    logger = leading_logger(trainer.loggers) if trainer.logger else None
    if logger is None:
        return Path(trainer.log_dir or trainer.default_root_dir)
    return Path(trainer.strategy.broadcast(str(folder_of(logger, trainer.default_root_dir))))


def has_own_folder(trainer: Trainer) -> bool:
    """Whether the run folder is a logger's, made for the run; else it may hold files of the user's."""
    return trainer.logger is not None and not isinstance(trainer.logger, DummyLogger)  # which is of `fast_dev_run`


def leading_logger(loggers: Sequence[Logger]) -> Logger | None:
    """Choose the logger whose folder is the run's: the first of TensorBoard, else of CSV, else of any other kind.

    So the folder does not depend on the order of several loggers, nor on an online service beside files.
    """
    for kind in (TensorBoardLogger, CSVLogger, Logger):
        for logger in loggers:
            if isinstance(logger, kind):
                return logger
    return None


def folder_of(logger: Logger, otherwise: str) -> Path:
    """The folder of a logger's run, where Lightning puts its checkpoints too; `otherwise` in place of no `save_dir`."""
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    folder = os.path.join(logger.save_dir or otherwise, str(logger.name or ""), version)  # noqa: PTH118
    if isinstance(logger, TensorBoardLogger):  # which expands them itself, when it writes
        folder = os.path.expanduser(os.path.expandvars(folder))  # noqa: PTH111
    return Path(folder)
