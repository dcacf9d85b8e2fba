"""Reuse the training of a finished run that differs in its stage's name alone, such as that of a chosen setting."""

import shutil
from pathlib import Path

import yaml

from kd_lightning.callbacks.curves import METRICS_FILE
from kd_lightning.commands.plan import Run
from kd_lightning.reports.results import RESULTS_FILE, TEST_PARTS, read_results, update_results
from kd_lightning.utils.atomic_write import write_text

OF_THE_OTHER = (*TEST_PARTS, "settings", "fingerprint", "recipe", "reproduced", "config")
"""Parts of the other run's results that are not copied: a test of this run writes them."""


def copy_training(run: Run, other: Path) -> bool:
    """Copy checkpoints and curves of a finished run, so that this run has only to be tested.

    Args:
        run: to be trained.
        other: folder of a finished run with the same fingerprint.

    Returns:
        Whether it was copied: not into a folder that has a run, and not where services would miss this run.
    """
    is_there = (run.folder / RESULTS_FILE).exists() or other == run.folder
    if is_there or len(run.loggers) > 1 or not (other / "checkpoints").is_dir():
        return False
    shutil.copytree(other / "checkpoints", run.folder / "checkpoints", dirs_exist_ok=True)
    for file in (other / METRICS_FILE, *other.glob("events.out.tfevents.*")):
        if file.is_file():
            shutil.copy(file, run.folder)
    trainer = {**run.config["trainer"], "logger": run.loggers[0]}
    config = {**run.config, "trainer": trainer, "seed_everything": run.seed}
    write_text(run.folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    results = {name: part for name, part in read_results(other).items() if name not in OF_THE_OTHER}
    update_results(run.folder, **results, config=config)
    return True
