"""Print where the results of a command are and what to run next, and close what the run leaves open."""

import os
import shlex
import sys
from pathlib import Path

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from kd_lightning.callbacks.earlier_files import PICTURES
from kd_lightning.callbacks.results import leaves_files
from kd_lightning.reports.results import RESULTS_FILE, read_results
from kd_lightning.utils.run_folder import run_folder

STAGE = "KD_LIGHTNING_STAGE"
"""Environment variable of a process that trains a stage for `reproduce`, which prints the results itself."""

WRITTEN_BY = {
    "fit": ("config.yaml", "checkpoints"),
    "validate": (),
    "test": (RESULTS_FILE, *PICTURES),
    "predict": ("predictions*.csv",),
}
"""Files that each command writes into the run folder."""


def print_results_and_next(done: LightningCLI) -> None:
    """Print one line with the files that a command has written, and one with the next command."""
    folder = run_folder(done.trainer)  # on every process: they agree on it
    command = str(done.subcommand)
    written = [file.name for pattern in WRITTEN_BY[command] for file in sorted(folder.glob(pattern))]
    if not done.trainer.is_global_zero or not leaves_files(done.trainer) or not written or STAGE in os.environ:
        return
    print(f"results: {folder} ({', '.join(written)})")
    if words := _next(done.trainer, folder, command):
        print(f"next: {shlex.join(words)}")


def close_services() -> None:
    """Finish a Weights & Biases run, and destroy the process group of distributed training.

    Lightning keeps a group on CPUs until the interpreter exits, which then sometimes aborts with status 134.
    """
    finish_loggers()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def finish_loggers() -> None:
    """Finish a Weights & Biases run: the next one of the same process would otherwise be part of it."""
    wandb = sys.modules.get("wandb")
    if wandb and wandb.run:
        wandb.finish()


def _next(trainer: Trainer, folder: Path, command: str) -> list[str]:
    """Return the next command: test after training, export after a test, else TensorBoard if it has logs."""
    checkpoints = (folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    trained = (folder / "config.yaml").is_file() and any(file.is_file() for file in checkpoints)
    if trained and command != "test" and "test" not in read_results(folder):
        return ["kd-lightning", "test", "--config", str(folder / "config.yaml"), "--ckpt_path", str(folder)]
    if command == "test" and trained:
        return ["kd-lightning", "export", str(folder)]
    if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        return ["tensorboard", "--logdir", str(folder.parent)]
    return []
