"""The stock Lightning CLI: `fit`, `validate`, `test` and `predict`."""

import errno
import os
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse.typing import PositiveInt
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from kd_lightning.callbacks import ResultsWriter
from kd_lightning.callbacks.results import RESUME_WORDS
from kd_lightning.callbacks.unsupported import check_callbacks
from kd_lightning.checkpoints.description import KEY
from kd_lightning.checkpoints.io import WholeCheckpointIO
from kd_lightning.checkpoints.weights import is_of_module, load_weights, resolve_checkpoint
from kd_lightning.cli.config_files import config_files, read_config_words
from kd_lightning.cli.default_callbacks import Disabled, add_default_callbacks, add_progress_bar, append_to_metrics
from kd_lightning.cli.messages import MAX_MESSAGE_LENGTH, is_option_error, root_cause, shorten
from kd_lightning.cli.option_parser import OptionParser, fix_jsonargparse
from kd_lightning.cli.quiet import report_full_disk_once, silence_needless_warnings
from kd_lightning.cli.run_config import SaveTrainingConfig, expand_paths, named_run, saved_run, stay_in
from kd_lightning.errors import UserError, one_line
from kd_lightning.models.config import fit_to_classes, leave_out_classes, leave_out_weights, without_classes
from kd_lightning.modules import ClassifierModule
from kd_lightning.modules.resuming import KEY as TRAINING
from kd_lightning.utils.cpu import make_cpu_fast
from kd_lightning.utils.run_folder import folder_of, has_own_folder, leading_logger, run_folder


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
            "--disable_callbacks",
            type=Disabled,
            default=[],
            help="Default callbacks to leave out, such as '[Dashboard]'. One of the same class in trainer.callbacks "
            "takes the place of the default one.",
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
            raise UserError(f"{', '.join(config_files(args))}: {error}"[:MAX_MESSAGE_LENGTH]) from error
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
            if not isinstance(error, ValueError) and not is_option_error(error):
                raise
            raise UserError(shorten(str(root_cause(error)))) from error
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
        options = self.config[self.subcommand]
        callbacks = add_default_callbacks(str(self.subcommand), options, config, self.model)
        kwargs["enable_progress_bar"] = add_progress_bar(callbacks, config)
        if self.subcommand == "fit":
            check_callbacks(callbacks, self.model, resumes=bool(options.get("ckpt_path")))
        try:
            trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        except TypeError as error:
            if "devices" not in str(error):
                raise
            raise UserError(f"trainer.devices: {config.get('devices')} found ({one_line(error)})") from error
        if self.subcommand != "fit" or options.get("ckpt_path"):
            append_to_metrics(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one of the user's, or the strategy's own
            trainer.strategy.checkpoint_io = WholeCheckpointIO()
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the command; what Lightning says of a user's options is one line, of anything else a traceback."""
        try:
            with report_full_disk_once():
                super()._run_subcommand(subcommand)
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename:
                raise
            folder = run_folder(self.trainer)
            raise UserError(f"{folder}, or standard output: cannot be written ({one_line(error)})") from error
        except Exception as error:
            if not is_option_error(error):
                raise
            raise UserError(shorten(str(error))) from error

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
    parser = OptionParser()
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    try:
        return parser.instantiate_classes(parser.parse_object({"data": config})).data
    except ValueError as error:
        raise UserError(shorten(str(root_cause(error)))) from error


def _make(cli: type[_CLI], args: ArgsType) -> _CLI:
    args = sys.argv[1:] if args is None else args
    args = read_config_words(args) if isinstance(args, list) else args
    silence_needless_warnings()
    make_cpu_fast()
    fix_jsonargparse()
    if not torch.cuda.is_available():
        # Lightning asks for CUDA checks through NVML, which then re-opens it at every optimizer step.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    return cli(
        ClassifierModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        parser_class=OptionParser,
        save_config_callback=SaveTrainingConfig,
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
