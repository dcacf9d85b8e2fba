"""Tries of a stage: settings that are compared on validation images of the training set, and the one that is chosen."""

import hashlib
import json
from pathlib import Path
from typing import Any

from kd_lightning.cli import lightning
from kd_lightning.errors import UserError
from kd_lightning.reports.results import read_results
from kd_lightning.stage import Stage
from kd_lightning.utils.atomic_write import write_text

TRIES_FILE = "tries.json"
"""Beside the runs of a stage: the figures of its tries on the validation images, and the setting that was chosen."""

DIVERGED = "diverged"
"""Key of the validation figures of a try that has none: the message of its training."""

OF_RUN = ("seed_everything", "ckpt_path", "label", "overwrite", "config", "trainer.logger")
"""Options that `reproduce` sets for each run, so that no setting has them."""


def check_setting(stage: Stage, setting: dict[str, Any], overrides: list[list[str]], command: str) -> None:
    """Check the names of a setting's options.

    Args:
        stage: to which the setting belongs.
        setting: options by dotted name.
        overrides: options of the command line.
        command: that runs the tries.

    Raises:
        UserError: one of them is set by the command, or on the command line, which would make all tries alike.
    """
    for name in setting:
        if name in OF_RUN:
            raise UserError(f"tries of {stage.name}: {name} found, but {command} sets it for each run")
        for given in sorted(_names(overrides)):
            if f"{given}.".startswith(f"{_plain(name)}."):  # the option or a part of it
                raise UserError(f"--{given}: found, but the tries of {stage.name} set it; leave it out of one of both")


def without_given(options: dict[str, Any], overrides: list[list[str]]) -> dict[str, Any]:
    """Return the options that the command line does not give."""
    given = _names(overrides)
    return {name: value for name, value in options.items() if _plain(name) not in given}


def _names(overrides: list[list[str]]) -> set[str]:
    return {_plain(pair[0].removeprefix("--").partition("=")[0]) for pair in overrides}


def _plain(name: str) -> str:
    return name.replace(".init_args", "").rstrip("+")


def validation_digest(data: dict[str, Any], stage: Stage) -> str:
    """Return a digest of which images a data config validates on: images of the training set alone.

    Args:
        data: the `data` of a config.
        stage: for which settings are tried.

    Raises:
        UserError: there are no validation images, they are the test images, or which they are is not known.
    """
    module = lightning.build_data(data)
    module.prepare_data()
    module.setup("fit")
    positions = getattr(module, "val_positions", None)
    held_out = "hold some out of the training set, as in try_options: {data.val_size: 1000}"
    if positions is None:
        found = f"{data['class_path']}, whose validation images may be test images, found"
        raise UserError(f"tries of {stage.name}: {found}; a ClassificationDataModule expected")
    if not len(positions):
        raise UserError(f"tries of {stage.name}: no validation images found; {held_out}")
    if getattr(module, "test_part", "test") == "val" and not module.val_size:
        raise UserError(
            f"tries of {stage.name}: the validation images are the test images, and settings are chosen on training "
            f"images; {held_out}"
        )
    return hashlib.sha256(positions.numpy().tobytes()).hexdigest()


def choose(stage: str, folders: list[Path]) -> int:
    """Return the place of the try with the best validation accuracy; of several, that with the lowest likelihood loss.

    Args:
        stage: name, for the error.
        folders: of the tries, in order; each has in its results the figures of its last checkpoint, or why it diverged.

    Raises:
        UserError: all have diverged.
    """
    figures = [read_results(folder)["val"] for folder in folders]
    finished = [i for i, its in enumerate(figures) if DIVERGED not in its]
    if not finished:
        raise UserError(f"tries of {stage}: all have diverged ({figures[0][DIVERGED]}); settings that train expected")
    return max(finished, key=lambda i: (figures[i]["accuracy"], -figures[i]["nll"], -i))


def write_choice(folder: Path, stage: Stage, folders: list[Path], chosen: int) -> None:
    """Write `tries.json` into a stage's folder: all tries with their validation figures, and which was chosen."""
    results = [read_results(each) for each in folders]
    record = {
        "chosen": chosen + 1,
        "setting": stage.tries[chosen],
        "by": "accuracy on validation images of the training set, last checkpoint; no test",
        "tries": [
            {
                "try": place,
                "setting": setting,
                "val": its["val"],
                **{name: its["fit"][name] for name in ("seed", "seconds") if "fit" in its},
            }
            for place, (setting, its) in enumerate(zip(stage.tries, results, strict=True), start=1)
        ],
    }
    write_text(folder / TRIES_FILE, json.dumps(record, indent=2) + "\n")
