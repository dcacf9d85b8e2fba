"""What is said when a command of the Lightning CLI is done: where the results are, and what to run next."""

import os
import shlex
import sys
from pathlib import Path

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from kd_lightning.callbacks.results import PICTURES, leaves_files
from kd_lightning.reports.results import RESULTS_FILE, read_results
from kd_lightning.utils.run_folder import run_folder

STAGE = "KD_LIGHTNING_STAGE"
"""Set in the environment of a process that trains a stage of a recipe: the recipe itself has the last word."""

LEFT_BY = {
    "fit": ("config.yaml", "checkpoints"),
    "validate": (),
    "test": (RESULTS_FILE, *PICTURES),
    "predict": ("predictions*.csv",),
}
"""Files of a run folder, by the command that writes them."""


def say_where_and_what_next(done: LightningCLI) -> None:
    """Print one line of each, once for all processes of a run, and only of what is there."""
    folder = run_folder(done.trainer)  # on every process: they agree on it
    command = str(done.subcommand)
    left = [file.name for pattern in LEFT_BY[command] for file in sorted(folder.glob(pattern))]
    if not done.trainer.is_global_zero or not leaves_files(done.trainer) or not left or STAGE in os.environ:
        return
    print(f"results: {folder} ({', '.join(left)})")
    if words := _next(done.trainer, folder, command):
        print(f"next: {shlex.join(words)}")


def end_services() -> None:
    """End what a run leaves open in this process: its run at Weights & Biases, and the group of its processes.

    Lightning leaves a group on CPUs to the interpreter's exit, which then aborts now and then, with status 134.
    """
    wandb = sys.modules.get("wandb")
    if wandb and wandb.run:
        wandb.finish()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _next(trainer: Trainer, folder: Path, command: str) -> list[str]:
    """Test what was trained, then ship it; and look at the curves, where there are some here."""
    trained = (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir()
    if trained and "test" not in read_results(folder):
        return ["kd-lightning", "test", "--config", str(folder / "config.yaml"), "--ckpt_path", str(folder)]
    if command == "test" and trained:
        return ["kd-lightning", "export", str(folder)]
    if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        return ["tensorboard", "--logdir", str(folder.parent)]
    return []
