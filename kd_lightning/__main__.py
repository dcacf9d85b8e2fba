"""The console command `kd-lightning`: sends a word to the command that owns it."""

import os
import shlex
import sys
from importlib import import_module
from io import TextIOWrapper

from kd_lightning.utils.stopping import Stopped, stops_on_sigterm

USAGE = """usage: kd-lightning COMMAND [OPTION ...]

  reproduce [RECIPE]   a published system, end to end: teacher, baseline, students, comparison
  recipes              the recipes; copy one to change it
  compare RUNS …       runs, recipes or records side by side: a table, and a report for a browser
  sweep CONFIG         students of many temperatures, soft weights and seeds, trained at once
  fit                  train what a config names        --config configs/digits/teacher.yaml
  validate             measure a run on its validation split
  test                 measure a run on the test set
  export RUN           a network alone, to ship: ONNX and torch.export, checked and timed
  predict RUN IMAGE …  what a run, or an exported file, says of image files and folders of them
  predict              what a run says of each image of its test set
  completion SHELL     print what lets bash, zsh or fish complete these words

kd-lightning COMMAND --help says more of each.
"""

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")

OWN_COMMANDS = ("reproduce", "recipes", "compare", "sweep", "export")

FILE_OPTIONS = ("--output", "--batch_size")
"""Of `predict` with image files, and not of the trainer's."""

FLAGS = ("-h", "--help", "--help_all", "--print_config")
"""Options of the trainer's that no value follows, but after `=`."""

COMMANDS = (*OWN_COMMANDS, *TRAINER_COMMANDS, "completion")


def main(args: list[str] | None = None) -> int:
    """Run `kd-lightning` with the words given, or those of the process.

    Returns:
        The exit status: 0, or 2 for a mistake of the user's, which was named in one line on standard error; 141 where
        nobody reads standard output any more, as with `| head -1`; 143 and 130 for a signal.
    """
    if _open_missing_streams():
        print("kd-lightning: error: standard output is closed; a file, a pipe or /dev/null expected", file=sys.stderr)
        return 2
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files have any bytes, and keep them
    status = 0
    try:
        try:
            status = _run_until_stopped(sys.argv[1:] if args is None else args)
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 141
    except OSError as error:
        _throw_output_away()
        if status:  # which was explained
            return status
        print(f"kd-lightning: error: standard output: {error.strerror}", file=sys.stderr)
        return 2
    return status


def _open_missing_streams() -> bool:
    """Whether standard output is closed. What is closed is led nowhere: else the next file opened takes its place."""
    closed = sys.stdout is None
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this stream's
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    return closed


def _reader_is_gone() -> bool:
    """Whether standard output leads nowhere; if so, what is left of it is thrown away."""
    try:
        print(flush=True)
    except BrokenPipeError:
        _throw_output_away()
        return True
    return False


def _throw_output_away() -> None:
    """Lead standard output nowhere, or Python speaks at its end of what could not be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _run_until_stopped(words: list[str]) -> int:
    """Run a command; on SIGTERM or Ctrl-C, say how to go on, unless a training that was stopped has said it."""
    try:
        with stops_on_sigterm():
            return _run(words)
    except Stopped as stopped:
        status = int(stopped.code or 0)
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):  # Lightning makes a plain exit of it
            print("kd-lightning: interrupted", file=sys.stderr)
            return 130
        if words[0] not in OWN_COMMANDS or ended.code not in (130, 143):
            raise
        status = ended.code  # of a training that was one of several
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
    # Most commands import torch and Lightning, seconds of waiting: only where they are needed.
    from kd_lightning.errors import UserError, one_line

    try:
        if words[0] in OWN_COMMANDS or _predicts_files(words):
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
        said = f"{error.filename}: {error.strerror}" if error.filename else one_line(error)
        print(f"kd-lightning: error: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kd-lightning: interrupted", file=sys.stderr)
        return 130
    return 0


def _predicts_files(words: list[str]) -> bool:
    """Whether `predict` is of image files: by a word that is neither an option nor its value, or an option of theirs.

    The trainer's `predict` has options alone, each with a value; so has that of files, beside MODEL and IMAGE.
    """
    value_follows = False
    for word in words[1:] if words[0] == "predict" else ():
        if word == "--":
            return True
        if word.startswith("-") and word != "-":
            name, equals, _ = word.partition("=")
            if name in FILE_OPTIONS:
                return True
            value_follows = not equals and name not in FLAGS
        elif value_follows:
            value_follows = False
        else:
            return True
    return False


def _load() -> None:
    """Import what takes long, and say so."""
    from kd_lightning.utils.progress import status

    with status("loading torch and Lightning"):
        import_module("lightning.pytorch")


if __name__ == "__main__":
    sys.exit(main())
