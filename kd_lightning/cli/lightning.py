"""The Lightning CLI with this project's options, checks and default callbacks: fit, validate, test and predict."""

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
from kd_lightning.checkpoints.io import AtomicCheckpointIO
from kd_lightning.cli.checkpoint_option import check_checkpoint, check_resumable, choose_checkpoint
from kd_lightning.cli.config_files import config_files, read_config_words
from kd_lightning.cli.default_callbacks import Disabled, add_default_callbacks, add_progress_bar, append_to_metrics
from kd_lightning.cli.jsonargparse_patches import patch_jsonargparse
from kd_lightning.cli.messages import MAX_MESSAGE_LENGTH, is_option_error, root_cause, shorten
from kd_lightning.cli.option_parser import OptionParser
from kd_lightning.cli.quiet import report_full_disk_once, silence_needless_warnings
from kd_lightning.cli.run_config import SaveTrainingConfig, expand_paths, prepare_loggers
from kd_lightning.errors import UserError, one_line
from kd_lightning.models.building import explain, without_published_weights, without_rejected
from kd_lightning.models.from_data import Tried, fit_to_data, leave_out_determined
from kd_lightning.modules import ClassifierModule
from kd_lightning.utils.cpu import configure_cpu
from kd_lightning.utils.run_folder import folder_of, has_own_folder, leading_logger, run_folder


class _CLI(LightningCLI):
    """Parses a command line, instantiates model, data and trainer, and runs the command."""

    def __init__(self, *classes: Any, **kwargs: Any) -> None:
        words = kwargs["args"]
        self._word = words[0] if isinstance(words, list) and words else None
        super().__init__(*classes, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # of the instance, which knows its words
        """Return the command that is run: making the parser of each takes 0.1 s."""
        every = LightningCLI.subcommands()
        return {self._word: every[self._word]} if self._word in every else every

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="CPU threads of torch (default: torch decides). Small networks are fastest with one.",
        )
        parser.add_argument(
            "--matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="Of float32 matrix products: highest is float32; on a GPU high may use tf32, medium bfloat16.",
        )
        parser.add_argument(
            "--stage",
            type=dict[str, Any] | None,
            default=None,
            help="What `reproduce` and reports read: published, main, seeds, variants. Training does not use it.",
        )
        parser.add_argument("--label", type=str | None, default=None, help="Name of the run (default: a random one).")
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
            help="Draw pictures of each test: confusion matrix, reliability diagram, worst mistakes.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the options, and once more without defaults: the data replaces a default, but no given value."""
        try:
            super().parse_arguments(parser, args)
        except UserError as error:
            if not str(error).startswith("Problems parsing config") or not isinstance(args, list):
                raise
            raise UserError(f"{', '.join(config_files(args))}: {error}"[:MAX_MESSAGE_LENGTH]) from error
        parse: Any = parser.parse_args if isinstance(args, list) else parser.parse_object
        self._given: Any = parse(args, defaults=False)

    def _parse_ckpt_path(self) -> None:
        """Keep the given options: Lightning would replace them by the hyperparameters of the checkpoint."""

    def before_instantiate_classes(self) -> None:
        """Apply the options that concern the process, and choose the checkpoint."""
        config = self.config[self.subcommand]
        expand_paths(config)
        prepare_loggers(config.trainer)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.set_float32_matmul_precision(config.matmul_precision)
        choose_checkpoint(config, str(self.subcommand))

    def instantiate_classes(self) -> None:
        """Instantiate data and model, and check the checkpoint; report a class's own error without the parser's."""
        config = self.config[self.subcommand]
        try:
            given = self._given[self.subcommand].get("model")
            with without_published_weights(_loaded_from_files(config)):
                tried = fit_to_data(config.model, given, lambda: build_data(config.data.as_dict()))
                self._instantiate(tried)
        except Exception as error:
            explain(config.model, error)
            if not isinstance(error, ValueError) and not is_option_error(error):
                raise
            raise UserError(shorten(str(root_cause(error)))) from error
        path = self.config_init[self.subcommand].get("ckpt_path")
        if not path or not Path(path).is_file():
            return
        checkpoint = check_checkpoint(Path(path), self.model, str(self.subcommand))
        if checkpoint is None:  # the network has the weights
            self.config_init[self.subcommand]["ckpt_path"] = None
        elif self.subcommand == "fit":
            config.seed_everything = check_resumable(
                checkpoint, self.model, self.datamodule, config.seed_everything, self._seed_is_chosen
            )

    def _set_seed(self) -> None:
        self._seed_is_chosen = type(self.config[self.subcommand].seed_everything) is int
        super()._set_seed()

    def _instantiate(self, tried: Tried) -> None:
        """Instantiate everything; if a network rejects an option that the data determines, try again without it."""
        try:
            super().instantiate_classes()
        except Exception as error:
            if not without_rejected(tried, error):
                raise
            self._instantiate(tried)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.subcommand]["trainer"]
        if config.get("accumulate_grad_batches") == 0:
            raise UserError("accumulate_grad_batches: 0 found, at least 1 expected")
        options = self.config[self.subcommand]
        callbacks = add_default_callbacks(str(self.subcommand), options, config)
        kwargs["enable_progress_bar"] = add_progress_bar(callbacks, config)
        if self.subcommand == "fit":
            check_callbacks(callbacks, self.model, self.datamodule, resumes=bool(options.get("ckpt_path")))
        try:
            trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        except TypeError as error:
            if "devices" not in str(error):
                raise
            raise UserError(f"trainer.devices: {config.get('devices')} found ({one_line(error)})") from error
        if self.subcommand != "fit" or options.get("ckpt_path"):
            append_to_metrics(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # neither the user's nor the strategy's
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the command; an error of Lightning about options becomes a `UserError`, any other one passes."""
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
        """Refuse a run folder that must not be overwritten, before the loggers write to it."""
        logger, config = leading_logger(self.trainer.loggers), self.config_init["fit"]
        if logger is not None and has_own_folder(self.trainer):
            run = folder_of(logger, self.trainer.default_root_dir)
            ResultsWriter(config.label, config.overwrite).check_place(run, config.get("ckpt_path"))


class _Built(_CLI):
    """Instantiates everything that a command line names, and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


class _Parsed(_Built):
    """Parses a command line and its configs, and instantiates nothing."""

    def before_instantiate_classes(self) -> None:
        prepare_loggers(self.config[self.subcommand].trainer)
        leave_out_determined(self.config[self.subcommand].model, self._given[self.subcommand].get("model"))

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass


def _loaded_from_files(config: Any) -> list[Any]:
    """Return the networks of a config whose weights are loaded from files that other options name."""
    options = config.model.get("init_args") or {}
    files = {"net": config.get("ckpt_path") or options.get("init_from"), "teacher": options.get("teacher_ckpt")}
    return [options.get(role) for role, file in files.items() if file is not None and file not in RESUME_WORDS]


def build_data(config: dict[str, Any]) -> Any:
    """Instantiate the data module of a config.

    Args:
        config: the config's `data`, in plain types.

    Raises:
        UserError: options that the class does not take.
    """
    parser = OptionParser()
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    try:
        return parser.instantiate_classes(parser.parse_object({"data": config})).data
    except ValueError as error:
        raise UserError(shorten(str(root_cause(error)))) from error


def _start(cli: type[_CLI], args: ArgsType) -> _CLI:
    """Prepare the process, then parse `args` and go as far as `cli` does."""
    args = sys.argv[1:] if args is None else args
    args = read_config_words(args) if isinstance(args, list) else args
    silence_needless_warnings()
    configure_cpu()
    patch_jsonargparse()
    if not torch.cuda.is_available():
        # Lightning sets this to 1, and torch then opens NVML at every optimizer step.
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
    return _start(_CLI, args)


def build(args: list[str]) -> LightningCLI:
    """Instantiate everything that a command line names, as `main` does, without running the command.

    Returns:
        The CLI, with its `trainer`, `model` and `datamodule`.

    Raises:
        UserError: a mistake in the command line or a config.
    """
    return _start(_Built, args)


def parse(args: list[str]) -> dict[str, Any]:
    """Parse a command line and its configs as `main` does, without instantiating anything.

    Returns:
        Every option with its value, in plain types. A network's `num_classes` is left out unless it was given: the data
        determines it.

    Raises:
        UserError: a mistake in the command line or a config.
    """
    cli = _start(_Parsed, args)
    cli._dump_config()
    return cli.config_dump


def given_options(args: list[str]) -> dict[str, Any]:
    """Return the options that a command line and its configs give, without defaults, in plain types.

    Raises:
        UserError: a mistake in the command line or a config.
    """
    cli = _start(_Parsed, args)
    return _without_paths(cli._given[cli.subcommand].as_dict())


def _without_paths(options: Any) -> Any:
    """Return options without the paths of the files that they were read from."""
    if isinstance(options, dict):
        return {name: _without_paths(value) for name, value in options.items() if name != "__path__"}
    return [_without_paths(value) for value in options] if isinstance(options, list) else options
