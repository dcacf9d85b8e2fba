"""The loggers of a run that `reproduce` or `sweep` starts: where they write, and how they name it."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from kd_lightning.cli.run_config import DEFAULT_LOGGER, DEFAULT_NAME, VERSIONS, continue_runs, name_run
from kd_lightning.errors import UserError

PLACE = ("save_dir", "name", "version", "sub_dir")
"""Options of TensorBoard's logger that set the run folder."""


def override_words(overrides: list[list[str]]) -> list[str]:
    """Return the words of options that override a config's; a logger among them takes none of the config's logger."""
    is_logger = any(pair[0].partition("=")[0] == "--trainer.logger" for pair in overrides)
    return [*(["--trainer.logger=null"] if is_logger else []), *(word for pair in overrides for word in pair)]


def chosen_loggers(option: Any, command: str) -> list[dict[str, Any]]:
    """Return the loggers of a parsed `trainer.logger`, a dict of class path and options each.

    Raises:
        UserError: one of them names a single run, which all runs of the command would share.
    """
    found = [deepcopy(each) for each in (option if isinstance(option, list) else [option]) if isinstance(each, dict)]
    for each in found:
        given = [name for name in VERSIONS if each["class_path"] != DEFAULT_LOGGER and each["init_args"].get(name)]
        if given:
            raise UserError(f"trainer.logger.{given[0]}: found, but {command} sets it for each run")
    return found


def loggers_of_run(chosen: list[dict[str, Any]], runs: Path, name: str, version: str) -> list[dict[str, Any]]:
    """Return the loggers of a run: TensorBoard's, which sets the run folder, and those that were chosen beside it.

    Args:
        chosen: see `chosen_loggers`.
        runs: the folder of all runs.
        name: of the experiment, `<recipe>/<stage>`.
        version: of the run, `seed_<n>`.
    """
    place = {"save_dir": str(runs), "name": name, "version": version}
    first: dict[str, Any] = next(
        (each for each in chosen if each["class_path"] == DEFAULT_LOGGER), {"class_path": DEFAULT_LOGGER}
    )
    others = [each for each in chosen if each is not first]
    leading = {**first, "init_args": {**first.get("init_args", {}), "sub_dir": None, **place}}
    return [leading, *(_beside(each, runs / name / version, name, version) for each in others)]


def _beside(logger: dict[str, Any], folder: Path, name: str, version: str) -> dict[str, Any]:
    """Return a logger that writes into a run's folder and names the run, unless its options do."""
    options = dict(logger.get("init_args", {}))
    if "save_dir" in options and "run_name" not in options:  # MLflow has one database for all runs
        options["save_dir"] = str(folder)
    if "flush_logs_every_n_steps" in options and options["name"] == DEFAULT_NAME:  # CSV
        options |= {"name": "", "version": "csv"}
    name_run(options, name, version)
    return {**logger, "init_args": options}


def continued(loggers: list[dict[str, Any]], run: Path) -> list[dict[str, Any]]:
    """Return loggers that continue the runs of services that a run folder records."""
    copies = deepcopy(loggers)
    continue_runs(copies, run)
    return copies
