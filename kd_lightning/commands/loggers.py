"""The loggers of a recipe's runs: TensorBoard's, which gives each run its folder, and those that a user chose."""

from pathlib import Path
from typing import Any

from kd_lightning.cli.parser import pairs
from kd_lightning.errors import UserError

LOGGER = "lightning.pytorch.loggers.TensorBoardLogger"

PLACE = ("save_dir", "name", "version", "sub_dir")
"""Options of `LOGGER` that say where a run is."""


def check_logger(logger: Any, overrides: list[list[str]]) -> None:
    """Refuse options of the logger that `reproduce` has to set itself."""
    if logger is False:
        raise UserError("reproduce: trainer.logger false found, but each run lies in a logger's folder")
    if isinstance(logger, dict) and logger["class_path"] == LOGGER:
        pairs([word for pair in overrides for word in pair], "reproduce", tuple(f"--trainer.logger.{p}" for p in PLACE))


def loggers_of(chosen: Any, folder: Path, place: dict[str, str]) -> list[dict[str, Any]]:
    """The loggers of a run: TensorBoard's, which gives the run folder, and those that were chosen, inside of it."""
    found: list[dict[str, Any]] = [
        each for each in (chosen if isinstance(chosen, list) else [chosen]) if isinstance(each, dict)
    ]
    first: dict[str, Any] = next((each for each in found if each["class_path"] == LOGGER), {"class_path": LOGGER})
    loggers = [{**first, "init_args": {**first.get("init_args", {}), "sub_dir": None, **place}}]
    for each in found:
        if each is not first:
            options = each.get("init_args", {})
            inside = {"save_dir": str(folder)} if "save_dir" in options else {}
            loggers.append({**each, "init_args": {**options, **inside}})
    return loggers
