"""The argparse parser of our own commands, its argument types, and options that are passed on to `fit`."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from kd_lightning.errors import UserError
from kd_lightning.utils.paths import expand

MAX_WIDTH = 100
"""Columns of a help page on a wide terminal."""


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(MAX_WIDTH, shutil.get_terminal_size().columns))


class Arguments(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": _HelpFormatter, **kwargs})

    def error(self, message: str) -> Any:
        """Raise `UserError` with the message."""
        raise UserError(f"{self.prog.split()[-1]}: {message}")


def count(word: str) -> int:
    """Parse an integer of at least 1."""
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word} found, a number of at least 1 expected")
    return int(word)


def expanded(word: str) -> str:
    """Expand `~` and environment variables."""
    try:
        return expand(word, "path")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("path: ")) from error


def path(word: str) -> Path:
    """Parse a path; expand `~` and environment variables."""
    return Path(expanded(word))


def pairs(words: list[str], command: str, own: tuple[str, ...]) -> list[list[str]]:
    """Group options of `fit` with their values: ["--a", "1", "--b=2"] gives [["--a", "1"], ["--b=2"]].

    Args:
        words: the words of the command line.
        command: name of the command, for errors.
        own: prefixes of the options that the command sets itself.

    Raises:
        UserError: a word without an option, or an option that the command sets itself.
    """
    found: list[list[str]] = []
    for word in words:
        if word.startswith("--"):
            found.append([word])
        elif found and len(found[-1]) == 1 and "=" not in found[-1][0]:
            found[-1].append(word)
        else:
            raise UserError(f"{command}: {word} found, an option (--name value) expected")
    for pair in found:
        if pair[0].startswith(own):
            raise UserError(f"{command}: {pair[0]} found, but {command} sets it for each run; see --help")
    return found
