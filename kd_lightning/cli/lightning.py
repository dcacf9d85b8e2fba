"""The stock Lightning CLI: `fit`, `validate`, `test` and `predict`."""

import csv
import errno
import logging
import os
import sys
import threading
import warnings
from argparse import SUPPRESS
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from jsonargparse.typing import PositiveInt
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger

from kd_lightning import models
from kd_lightning.callbacks import (
    BestCheckpoint,
    Dashboard,
    Describer,
    Gallery,
    LastCheckpoint,
    PredictionWriter,
    ResultsWriter,
)
from kd_lightning.callbacks.results import RESUME_WORDS
from kd_lightning.callbacks.unsupported import check_callbacks
from kd_lightning.checkpoints.description import KEY, plain_network
from kd_lightning.checkpoints.io import WholeCheckpointIO
from kd_lightning.checkpoints.weights import is_of_module, load_weights, resolve_checkpoint
from kd_lightning.cli.config_files import config_files, read_config_words
from kd_lightning.cli.run_config import expand_paths, is_saved, named_run, saved_run, stay_in
from kd_lightning.cli.whole_numbers import try_int_before_float
from kd_lightning.errors import UserError, one_line
from kd_lightning.models.config import (
    accept_factories,
    as_function,
    fit_to_classes,
    leave_out_classes,
    leave_out_weights,
    list_networks_first,
    takes_any_options,
    without_classes,
)
from kd_lightning.modules import ClassifierModule
from kd_lightning.modules.resuming import KEY as TRAINING
from kd_lightning.utils.atomic_write import write_text
from kd_lightning.utils.cpu import make_cpu_fast
from kd_lightning.utils.run_folder import folder_of, has_own_folder, leading_logger, run_folder

PROGRESS_EVERY = 50
"""Steps between two refreshes of the progress bar: at every step it would cost more than a small network's step."""

LONGEST_VALUE = 120
"""Characters of a wrong value that an error shows."""

LONGEST_MESSAGE = 2000
"""Characters of a message that quotes a value which cannot be told from the rest."""

OPTIONS_ERRORS = (
    "Early stopping conditioned on metric",
    "Found more than one stateful callback",
    "`val_check_interval`",
    "`DeviceStatsMonitor` cannot log",
)
"""How errors of Lightning's begin that are about a user's options, though their class does not say so."""

NOISE = (
    r".*does not have many workers.*",  # what is loaded are indices
    r".*LeafSpec.*",
    r".*is not supported by the model summary.*",
    r".*The dirpath has changed from.*",  # a checkpoint of another folder was asked for
    r".*WeightAveraging callback, but loading a checkpoint outside the 'fit' stage.*",  # it has the averages
    r".*Total length of `list` across ranks is zero.*",  # no validation images asked for
    r"LightningCLI's args parameter is intended.*",  # the words are the command line's, or a recipe's
    r"You're resuming from a checkpoint that ended before the epoch ended.*",  # our sampler leaves out what was dealt
    r".*could not find the monitored key.*",  # no validation: `BestCheckpoint` sees to it
    r".*Checkpoint directory .* exists and is not empty.*",  # a stage run again replaces its checkpoint
    r".*The number of training batches .* is smaller than the logging interval.*",  # logging is by the epoch
)


class _Parser(LightningArgumentParser):
    """Says what is wrong in one line, without a page of usage; an option is named in full."""

    _is_open = False
    """Whether what it has the options of takes others, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, *args: Any, **kwargs: Any) -> Any:
        added = super().add_class_arguments(theclass, nested_key, *args, **kwargs)
        self._is_open = nested_key is None and takes_any_options(theclass, added)
        return added

    def add_function_arguments(self, function: Any, nested_key: str | None = None, *args: Any, **kwargs: Any) -> Any:
        factory, skipped = as_function(function)
        kwargs["skip"] = {*(kwargs.get("skip") or ()), *skipped}
        added = super().add_function_arguments(factory, nested_key, *args, **kwargs)
        self._is_open = nested_key is None and takes_any_options(function, added)
        return added

    def parse_object(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        self._add_unknown(getattr(cfg, "__dict__", cfg))
        return super().parse_object(cfg, *args, **kwargs)

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        self._add_unknown(word[2:].partition("=")[0] for word in (args or []) if self._is_open)
        return super().parse_args(args, *more, **kwargs)

    def _add_unknown(self, names: Iterable[str]) -> None:
        """Let a network whose `**kwargs` lead out of sight have any option."""
        for name in names if self._is_open else ():
            if name.isidentifier() and f"--{name}" not in self._option_string_actions:
                self.add_argument(f"--{name}", type=Any, default=SUPPRESS)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(_one_line(message)) from ex


class _FitConfig(SaveConfigCallback):
    """Writes `config.yaml` with the options of the training, also of one that is resumed; no test replaces it.

    The options that belong to one command alone (the checkpoint that it went on from) are left out. Where runs have no
    folder of their own, the file may be the user's own: it stays.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        target = run_folder(trainer) / self.config_filename  # on every process: they agree on it
        theirs = target.is_file() and not is_saved(target)
        if stage == "fit" and trainer.is_global_zero and not theirs:
            config = self.config.clone()
            for option, value in {"ckpt_path": None, "label": None, "overwrite": False}.items():
                config[option] = value
            write_text(target, self.parser.dump(config, skip_none=False))


class _CLI(LightningCLI):
    def __init__(self, *classes: Any, **kwargs: Any) -> None:
        words = kwargs["args"]
        self._word = words[0] if isinstance(words, list) and words else None
        super().__init__(*classes, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # of the instance, which knows its words
        """The one that was asked for: the parser of each takes a tenth of a second to make."""
        every = LightningCLI.subcommands()
        return {self._word: every[self._word]} if self._word in every else every

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="CPU threads of torch; its own choice by default. Small networks are fastest with one.",
        )
        parser.add_argument(
            "--matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="of float32 matrix products: highest is float32; high lets a GPU take tf32, medium bfloat16.",
        )
        parser.add_argument(
            "--stage",
            type=dict[str, Any] | None,
            default=None,
            help="For `reproduce` and reports: published, main, seeds, variants. Training does not use it.",
        )
        parser.add_argument("--label", type=str | None, default=None, help="A word for the run; else a random one.")
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="Let `fit` replace a run of `reproduce` in the run folder."
        )
        parser.add_argument(
            "--pictures",
            type=bool,
            default=True,
            help="Of each test: confusion matrix and counts, reliability, worst mistakes.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Note apart from all options those that were given: a default may give way to the data."""
        try:
            super().parse_arguments(parser, args)
        except UserError as error:
            if not str(error).startswith("Problems parsing config") or not isinstance(args, list):
                raise
            raise UserError(f"{', '.join(config_files(args))}: {error}"[:LONGEST_MESSAGE]) from error
        parse: Any = parser.parse_args if isinstance(args, list) else parser.parse_object
        self._given: Any = parse(args, defaults=False)

    def _parse_ckpt_path(self) -> None:
        """Options on the command line stand; hyperparameters of a checkpoint do not replace them."""

    def before_instantiate_classes(self) -> None:
        """Let `--ckpt_path` be a run folder; without one, evaluation takes the run that the config names."""
        config = self.config[self.subcommand]
        expand_paths(config)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.set_float32_matmul_precision(config.matmul_precision)
        options = config.model.get("init_args") or {}
        if options.get("teacher_ckpt") is not None:
            leave_out_weights(options.get("teacher"))  # those of the file follow
        path = config.get("ckpt_path")
        if path in RESUME_WORDS:
            return
        run = saved_run(config.get("config") or [])
        if path is None and self.subcommand != "fit":
            path = named_run(config.trainer) or run
            if path is None:
                raise UserError("ckpt_path: none found, a checkpoint or run folder expected (--ckpt_path PATH)")
        if path is not None:
            file = resolve_checkpoint(path, "ckpt_path", "last" if self.subcommand == "fit" else "best")
            config["ckpt_path"] = str(file)
            if run and run.resolve() in file.resolve().parents:
                stay_in(config.trainer, run)
            leave_out_weights(options.get("net"))

    def instantiate_classes(self) -> None:
        """Let what a class says of its options reach the user, without the parser's attempts around it."""
        try:
            config = self.config[self.subcommand]
            given = self._given[self.subcommand].get("model")
            tried = fit_to_classes(
                config.model, given, lambda: getattr(build_data(config.data.as_dict()), "num_classes", 0)
            )
            self._make(tried)
        except Exception as error:
            if not isinstance(error, ValueError) and not _is_about_options(error):
                raise
            raise UserError(_one_line(str(_origin(error)))) from error
        path = self.config_init[self.subcommand].get("ckpt_path")
        if path and Path(path).is_file():
            # Lightning reads it again, and would answer a damaged or unfitting one with a traceback.
            content = load_weights(self.model.net, Path(path), "ckpt_path")
            if not is_of_module(content, self.model):
                self._take_as_weights(path, content)
            elif self.subcommand == "fit":
                self._check_resumable(content)

    def _check_resumable(self, content: dict[str, Any]) -> None:
        """Refuse what a resumed training would not do, before any record of it is written; keep the run's seed."""
        config = self.config[self.subcommand]
        kept = self.model.check_resumable(content) and content[TRAINING].get("seed")
        if isinstance(kept, int) and kept != config.seed_everything:
            if self._seed_is_chosen:
                raise UserError(
                    f"seed_everything: {config.seed_everything} found, {kept} expected, as in the checkpoint"
                )
            config.seed_everything = kept
        state = content.get(type(self.datamodule).__qualname__)
        if state and hasattr(self.datamodule, "check_resumable"):
            self.datamodule.check_resumable(state)

    def _set_seed(self) -> None:
        self._seed_is_chosen = type(self.config[self.subcommand].seed_everything) is int
        super()._set_seed()

    def _make(self, tried: list[Any]) -> None:
        """Make everything; a network that fails for a number of classes that nobody gave is made without."""
        try:
            super().instantiate_classes()
        except Exception as error:
            if not without_classes(tried, error):
                raise
            self._make(tried)

    def _take_as_weights(self, path: str, content: Any) -> None:
        """Evaluate a file of weights that Lightning cannot restore, now that the network has them."""
        if self.subcommand == "fit":
            raise UserError(
                f"ckpt_path: {path} is no checkpoint of such a {type(self.model).__name__}, one expected to go on "
                "from; weights alone are for test, predict and teacher_ckpt"
            )
        self.config_init[self.subcommand]["ckpt_path"] = None
        self.model.weights_from = path, content.get(KEY) if isinstance(content, dict) else None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.subcommand]["trainer"]
        if config.get("accumulate_grad_batches") == 0:
            raise UserError("accumulate_grad_batches: 0 found, at least 1 expected")
        callbacks = self._callbacks(config)
        if any(isinstance(callback, ProgressBar) for callback in callbacks):
            pass  # the user's own, with the user's own `enable_progress_bar`
        elif config.get("enable_progress_bar") is False or not (config.get("enable_progress_bar") or _is_terminal()):
            kwargs["enable_progress_bar"] = False  # a bar in a file is a line an epoch
        else:
            callbacks.append(TQDMProgressBar(refresh_rate=PROGRESS_EVERY))
        if self.subcommand == "fit":
            check_callbacks(callbacks, self.model, resumes=bool(self.config[self.subcommand].get("ckpt_path")))
        try:
            trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        except TypeError as error:
            if "devices" not in str(error):
                raise
            raise UserError(f"trainer.devices: {config.get('devices')} found ({one_line(error)})") from error
        if self.subcommand != "fit" or self.config[self.subcommand].get("ckpt_path"):
            _keep_metrics(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one of the user's, or the strategy's own
            trainer.strategy.checkpoint_io = WholeCheckpointIO()
        return trainer

    def _callbacks(self, trainer: Any) -> list[Any]:
        """The user's callbacks, and each of ours of which the user has not given one."""
        given = trainer.get("callbacks") or []
        callbacks: list[Any] = [*given] if isinstance(given, list) else [given]
        for callback in callbacks:
            names = (callback._attr_name, "lr", "learning_rate") if isinstance(callback, LearningRateFinder) else ()
            if names and not any(name and hasattr(self.model, name) for name in names):
                raise UserError(
                    "callbacks: LearningRateFinder found, which sets the attribute `lr` of a module, and "
                    f"{type(self.model).__name__} has none; compare rates with --model.optimizer.lr"
                )
        network = (self.config[self.subcommand].model.get("init_args") or {}).get("net")
        options = self.config[self.subcommand]
        ours: list[Any] = [
            Describer(plain_network(network)),
            ResultsWriter(options.label, options.overwrite),
            Dashboard(),
        ]
        if options.pictures:
            ours.append(Gallery())
        if trainer.get("enable_checkpointing") is not False and not trainer.get("barebones"):
            ours += [BestCheckpoint(), LastCheckpoint()]
        if self.subcommand == "predict":
            ours.append(PredictionWriter())
        for own in ours:
            theirs = [callback for callback in callbacks if isinstance(callback, type(own))]
            if not theirs:
                callbacks.append(own)
            elif isinstance(own, ResultsWriter):
                theirs[0].label = options.label or theirs[0].label
                theirs[0].overwrite |= options.overwrite
        return callbacks

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the command; what Lightning says of a user's options is one line, of anything else a traceback."""
        try:
            with _quiet_writers():
                super()._run_subcommand(subcommand)
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename:
                raise
            folder = run_folder(self.trainer)
            raise UserError(f"{folder}, or standard output: cannot be written ({one_line(error)})") from error
        except Exception as error:
            if not _is_about_options(error):
                raise
            raise UserError(_one_line(str(error))) from error

    def before_fit(self) -> None:
        """See that the run folder may be used, before the loggers write to it."""
        logger, config = leading_logger(self.trainer.loggers), self.config_init["fit"]
        if logger is not None and has_own_folder(self.trainer):
            run = folder_of(logger, self.trainer.default_root_dir)
            ResultsWriter(config.label, config.overwrite).check_place(run, config.get("ckpt_path"))


class _Built(_CLI):
    """Everything that a command line names, made and not run."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


class _Parsed(_Built):
    """The command line and its configs, read and not acted on."""

    def before_instantiate_classes(self) -> None:
        leave_out_classes(self.config[self.subcommand].model, self._given[self.subcommand].get("model"))

    def instantiate_classes(self) -> None:
        pass


def build_data(config: dict[str, Any]) -> Any:
    """Make the data module that a config's `data` names, as plain types.

    Raises:
        UserError: options that do not fit.
    """
    parser = _Parser()
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    try:
        return parser.instantiate_classes(parser.parse_object({"data": config})).data
    except ValueError as error:
        raise UserError(_one_line(str(_origin(error)))) from error


def _keep_metrics(trainer: Trainer) -> None:
    """Let CSV loggers add to the `metrics.csv` of a run that goes on, or is tested, which Lightning would delete."""
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


def _one_line(message: str) -> str:
    """What is wrong, without the types that the parser tried in turn."""
    message = " ".join(message.split())
    key, tried, rest = message.partition(": Does not validate against any of the Union subtypes")
    if not tried:
        return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]} …"
    reasons, _, value = rest.partition("Errors: - ")[2].partition(" Given value type: ")
    found = value.partition("Given value: ")[2]
    told = [reason for reason in reasons.split(" - ") if "NoneType" not in reason]
    reason = max(told, key=len)  # the longest is the one that names something
    found = found if len(found) <= LONGEST_VALUE else f"{found[:LONGEST_VALUE]} …"
    return f"{key.removeprefix('Parser key ')}: {reason}; found {found}"


def _origin(error: BaseException) -> BaseException:
    """What was raised first, or what of ours says it better."""
    return error if isinstance(error, UserError) or not error.__cause__ else _origin(error.__cause__)


@contextmanager
def _quiet_writers() -> Iterator[None]:
    """Let a full disk in TensorBoard's own thread be said once: its next write raises the error again."""
    print_error = threading.excepthook

    def print_others(args: Any) -> None:
        if not (type(args.thread).__module__.startswith("tensorboard.") and issubclass(args.exc_type, OSError)):
            print_error(args)

    threading.excepthook = print_others
    try:
        yield
    finally:
        threading.excepthook = print_error


def _is_about_options(error: Exception) -> bool:
    """Whether an error is Lightning's word on options that it cannot honour; any other may be a fault of the code."""
    return isinstance(error, MisconfigurationException) or str(error).strip().startswith(OPTIONS_ERRORS)


def _not_a_tip(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _make(cli: type[_CLI], args: ArgsType) -> _CLI:
    args = sys.argv[1:] if args is None else args
    args = read_config_words(args) if isinstance(args, list) else args
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_not_a_tip)
    make_cpu_fast()
    accept_factories()
    list_networks_first([f"kd_lightning.{name}" for name in models.__all__])
    try_int_before_float()
    if not torch.cuda.is_available():
        # Lightning asks for CUDA checks through NVML, which then re-opens it at every optimizer step.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    return cli(
        ClassifierModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        parser_class=_Parser,
        save_config_callback=_FitConfig,
        save_config_kwargs={"overwrite": True},
        args=args,
    )


def main(args: ArgsType = None) -> LightningCLI:
    """Run one command of the Lightning CLI.

    Args:
        args: words after `kd-lightning`, such as ["fit", "--config", "configs/digits/teacher.yaml"]; those of the
            process by default.

    Returns:
        The CLI after its command, with its `trainer`, `model` and `datamodule`.

    Raises:
        UserError: a mistake in the command line, a config or the data.
    """
    return _make(_CLI, args)


def build(args: list[str]) -> LightningCLI:
    """Make everything that a command line names, as `main` would, and stop there: nothing is run.

    Returns:
        The CLI, with its `trainer`, `model` and `datamodule`.

    Raises:
        UserError: a mistake in the command line or a config.
    """
    return _make(_Built, args)


def parse(args: list[str]) -> dict[str, Any]:
    """Read a command line and its configs as `main` would, and stop there: nothing is built or run.

    Returns:
        Every option with its value, plain types, without the command itself; of networks without a `num_classes` that
        was not given, which the data settles.

    Raises:
        UserError: a mistake in the command line or a config.
    """
    cli = _make(_Parsed, args)
    cli._dump_config()
    return cli.config_dump
