"""The console command `kd-lightning`: run the command that its first word names, and report errors in one line."""

import logging
import os
import shlex
import sys
from importlib import import_module
from io import TextIOWrapper

from kd_lightning.utils.stopping import Stopped, stops_on_sigterm

USAGE = """usage: kd-lightning COMMAND [OPTION ...]

  reproduce [RECIPE]   train and test a published system: teacher, baseline, students; compare them
  recipes              list the recipes, or copy one to change it
  compare RUNS …       compare runs, recipes or records: a table, and an HTML report
  sweep CONFIG         train students of many temperatures, soft weights and seeds at once
  fit                  train the model of a config      --config configs/digits/teacher.yaml
  validate             evaluate a run on its validation split
  test                 evaluate a run on the test set
  export RUN           export a network to ONNX and torch.export, verified and timed
  predict RUN IMAGE …  classify image files and folders with a run or an exported file
  predict              classify the test images of a run
  completion SHELL     print the completion script of bash, zsh or fish

kd-lightning COMMAND --help explains a command and its options.
"""

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")

OWN_COMMANDS = ("reproduce", "recipes", "compare", "sweep", "export")

COMMANDS = (*OWN_COMMANDS, *TRAINER_COMMANDS, "completion")


def main(args: list[str] | None = None) -> int:
    """Run `kd-lightning`.

    Args:
        args: the command and its options; those of the process by default.

    Returns:
        The exit status: 0; 2 for a user's mistake, printed in one line on standard error; 141 if the reader of standard
        output is gone, as with `| head -1`; 130 and 143 for SIGINT and SIGTERM.
    """
    if _open_missing_streams():
        print("kd-lightning: error: standard output is closed; a file, a pipe or /dev/null expected", file=sys.stderr)
        return 2
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names may hold any bytes
    status = 0
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        try:
            status = _run_until_stopped(sys.argv[1:] if args is None else args)
        finally:
            for logger, level in zip(loggers, levels, strict=True):  # a command may silence them
                logger.setLevel(level)
            print(end="", flush=True)
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 141
    except OSError as error:
        _discard_output()
        if status:  # its error is printed already
            return status
        print(f"kd-lightning: error: standard output: {error.strerror}", file=sys.stderr)
        return 2
    return status


def _open_missing_streams() -> bool:
    """Return whether standard output is closed; open closed streams on /dev/null."""
    closed = sys.stdout is None
    # The next file that is opened would take the descriptor of a closed stream.
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor: this stream's
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # stays open, as the stream
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115  # stays open, as the stream
    return closed


def _reader_is_gone() -> bool:
    """Return whether the reader of standard output is gone; if so, discard the output that is left."""
    try:
        print(flush=True)
    except BrokenPipeError:
        _discard_output()
        return True
    return False


def _discard_output() -> None:
    """Redirect standard output to /dev/null: Python reports at exit what it could not write."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _run_until_stopped(words: list[str]) -> int:
    """Run a command; on SIGTERM or Ctrl-C, print how to continue, unless the stopped training has printed it."""
    try:
        with stops_on_sigterm():
            return _run(words)
    except Stopped as stopped:
        status = int(stopped.code or 0)
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):  # which Lightning turns into an exit
            print("kd-lightning: interrupted", file=sys.stderr)
            return 130
        if words[0] not in OWN_COMMANDS or ended.code not in (130, 143):
            raise
        status = ended.code  # of one of several trainings
    name = {130: "SIGINT", 143: "SIGTERM"}[status]
    print(f"kd-lightning: stopped by {name}; to go on: {shlex.join(['kd-lightning', *words])}", file=sys.stderr)
    return status


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if words[0] == "--version":
        from kd_lightning import __version__

        print(f"kd-lightning {__version__}")
        return 0
    if {"-h", "--help"} & {*words[1:]}:
        from kd_lightning.cli.help import page_of

        if page := page_of(words[0]):
            print(page, end="")
            return 0
    # Importing torch and Lightning takes seconds: only the commands that need them do it.
    from kd_lightning.cli.arguments import predicts_images
    from kd_lightning.errors import UserError, one_line

    try:
        if words[0] in OWN_COMMANDS or (words[0] == "predict" and predicts_images(words[1:])):
            if words[0] not in ("recipes", "compare"):
                _load()
            import_module(f"kd_lightning.commands.{words[0]}").main(words[1:])
        elif words[0] in TRAINER_COMMANDS:
            _load()
            from kd_lightning.cli import lightning
            from kd_lightning.cli.next_steps import close_services, print_results_and_next

            print_results_and_next(lightning.main(["--help" if word == "--help_all" else word for word in words]))
            close_services()
        elif words[0] == "completion":
            from kd_lightning.cli.completion import script_for

            print(script_for(words[1:], COMMANDS), end="")
        else:
            raise UserError(f"command: {words[0]} found, one of {', '.join(COMMANDS)} expected")
    except UserError as error:
        print(f"kd-lightning: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else one_line(error)
        print(f"kd-lightning: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kd-lightning: interrupted", file=sys.stderr)
        return 130
    return 0


def _load() -> None:
    """Import Lightning and torch, with a status line."""
    from kd_lightning.utils.progress import status

    with status("loading torch and Lightning"):
        import_module("lightning.pytorch")


if __name__ == "__main__":
    sys.exit(main())
