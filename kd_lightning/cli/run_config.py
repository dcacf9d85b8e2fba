"""The run folder and paths of a parsed config, before there is a trainer; with a trainer, see `utils.run_folder`."""

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger

from kd_lightning.errors import UserError
from kd_lightning.reports.results import read_results
from kd_lightning.utils.atomic_write import write_text
from kd_lightning.utils.extras import not_installed
from kd_lightning.utils.paths import expand
from kd_lightning.utils.run_folder import folder_of, leading_logger, run_folder

SAVED = "# lightning.pytorch=="
"""First characters of a config that Lightning has saved."""

CONFIG_FILE = "config.yaml"

PATH_OPTIONS = frozenset(
    (
        *("default_root_dir", "save_dir", "root_dir", "dir", "dirpath"),  # of the trainer, loggers and callbacks
        *("ckpt_path", "teacher_ckpt", "init_from", "weights", "root", "cache_dir"),
    )
)
"""Options in which `~` and environment variables are expanded, anywhere in a config."""

VERSIONS = ("version", "id", "run_id")
"""Options of loggers that identify one run of an experiment."""

DEFAULT_LOGGER = "lightning.pytorch.loggers.TensorBoardLogger"
DEFAULT_NAME = "lightning_logs"
"""Class and `name` of Lightning's default logger."""


NEEDS = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}
"""Packages that loggers need."""


def expand_paths(config: Any) -> None:
    """Expand `~` and environment variables in all path options of a config, in place.

    Raises:
        UserError: a variable that is not set, or a user without a home folder.
    """
    for part in config if isinstance(config, list) else [config]:
        for name, value in vars(part).items() if isinstance(part, Namespace) else ():
            if name not in PATH_OPTIONS:
                expand_paths(value)
            elif isinstance(value, list):
                part[name] = [expand(path, name) if isinstance(path, str) else path for path in value]
            elif isinstance(value, str):
                part[name] = expand(value, name)


def is_saved(file: Path) -> bool:
    """Return whether a file is a config that a run has saved, possibly truncated."""
    try:
        with file.open("rb") as content:
            start = content.read(len(SAVED))
    except OSError:
        return False
    return SAVED.encode().startswith(start)


def saved_run(files: list[Any]) -> Path | None:
    """Return the run folder of the last config that is the `config.yaml` of a run; None without one."""
    for file in (Path(str(file)) for file in reversed(files)):
        if file.name == CONFIG_FILE and (file.parent / "checkpoints").is_dir() and is_saved(file):
            return file.parent
    return None


def named_run(trainer: Namespace) -> Path | None:
    """Return the run folder that the loggers of a config name; None if it is chosen when a run starts."""
    logger, options = _leading(trainer)
    if logger is None or all(options.get(name) is None for name in VERSIONS):
        return None
    return folder_of(logger, trainer.get("default_root_dir") or ".")


def stay_in(trainer: Namespace, run: Path) -> None:
    """Set the loggers of a config to write to an existing run folder, if they created it, and not to a new one."""
    root = str(trainer.get("default_root_dir") or ".")
    given = trainer.get("logger")
    if given in (None, True):
        made_here = _same(Path(root, DEFAULT_NAME), run.parent)
        options = Namespace(save_dir=root, name=DEFAULT_NAME, version=run.name)
        trainer.logger = Namespace(class_path=DEFAULT_LOGGER, init_args=options) if made_here else trainer.logger
        return
    continue_runs([entry for entry in (given if isinstance(given, list) else [given]) if entry], run)
    logger, options = _leading(trainer)
    if logger is None or any(options.get(name) is not None for name in VERSIONS):
        return
    if "version" in options and _same(Path(logger.save_dir or root, str(logger.name or "")), run.parent):
        options.version = run.name


def continue_runs(loggers: Iterable[Any], run: Path) -> None:
    """Set the ids of services' runs (Weights & Biases, MLflow) that a run folder records, unless they are given.

    Args:
        loggers: the class path and the options of each, which are changed in place.
        run: the folder.
    """
    ids = read_results(run).get("loggers", {})
    for logger in loggers:
        options = logger.get("init_args") or {}
        found = ids.get(logger["class_path"].rpartition(".")[2])
        if not found or any(options.get(name) is not None for name in VERSIONS):
            continue
        for name, value in {"version": found, "run_id": found, "resume": "allow"}.items():
            if name in options and options[name] is None:
                options[name] = value


def name_run(options: Any, name: str, version: str) -> None:
    """Name the run of a service in its logger's options, in place, where they do not.

    Args:
        options: of Weights & Biases' logger or MLflow's; those of others stay as they are.
        name: `<recipe>/<stage>`: the recipe becomes the project or experiment, the stage the group.
        version: such as `seed_0`.
    """
    project, _, stage = name.partition("/")
    own = {"project": project, "group": stage, "name": f"{stage}/{version}"}
    if "run_name" in options:
        own = {"run_name": f"{stage}/{version}"}
        if options["experiment_name"] == DEFAULT_NAME:
            options["experiment_name"] = project
    for option, value in own.items() if "project" in options or "run_name" in options else ():
        if options[option] is None:
            options[option] = value


def prepare_loggers(trainer: Namespace) -> None:
    """Check that the packages of the loggers are installed, and let Weights & Biases choose the id of a run.

    A logger on the command line takes the options of a stage's default one that it has: `name` and `version`, which is
    the same in each stage.

    Raises:
        UserError: a package is not installed.
    """
    given = trainer.get("logger")
    for entry in given if isinstance(given, list) else [given]:
        options = entry.get("init_args") if isinstance(entry, Namespace) else None
        if options is None:
            continue
        name = entry.class_path.rpartition(".")[2]
        if name in NEEDS and find_spec(NEEDS[name]) is None:
            raise UserError(f"trainer.logger: {name} found, but {not_installed(NEEDS[name])}")
        if "project" not in options:
            continue
        name, version = options.get("name") or "", options.get("version") or ""
        if name.count("/") == 1 and re.fullmatch(r"seed_\d+", version):
            options.name = options.version = None
            name_run(options, name, version)


def _leading(trainer: Namespace) -> tuple[Logger | None, Namespace]:
    """Return the logger whose folder is the run folder, and its options."""
    given = trainer.get("logger")
    entries = [entry for entry in (given if isinstance(given, list) else [given]) if isinstance(entry, Namespace)]
    loggers = [build_logger(entry.as_dict()) for entry in entries]
    leading = leading_logger(loggers)
    options = [entry.get("init_args") for logger, entry in zip(loggers, entries, strict=True) if logger is leading]
    return leading, (options and options[0]) or Namespace()


def build_logger(config: dict[str, Any]) -> Logger:
    """Instantiate a logger from its class path and options."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Logger, "logger")
    logger: Logger = parser.instantiate_classes(parser.parse_object({"logger": config})).logger
    return logger


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


class SaveTrainingConfig(SaveConfigCallback):
    """Save the options of a training, resumed or not, as the run folder's `config.yaml`; a test leaves it as it is.

    Options of one command alone, such as the checkpoint to resume from, are left out. Where runs have no folder of
    their own, an existing `config.yaml` that no run has saved is the user's and stays.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the config before a training begins."""
        target = run_folder(trainer) / self.config_filename  # on every process: they agree on it
        is_users = target.is_file() and not is_saved(target)
        if stage == "fit" and trainer.is_global_zero and not is_users:
            config = self.config.clone()
            for option, value in {"ckpt_path": None, "label": None, "overwrite": False}.items():
                config[option] = value
            write_text(target, self.parser.dump(config, skip_none=False))
