"""Words of a command line that are partly a command's own, partly options of `fit`."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from kd_lightning.errors import UserError
from kd_lightning.utils.paths import expand

WIDEST = 100
"""Columns of a page of help, where the terminal has as many."""


class _Page(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(WIDEST, shutil.get_terminal_size().columns))


class Arguments(argparse.ArgumentParser):
    """A command's own options; a mistake in them is one line, help a page."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": _Page, **kwargs})

    def error(self, message: str) -> Any:
        """Raise `UserError`, without a page of usage."""
        raise UserError(f"{self.prog.split()[-1]}: {message}")


def count(word: str) -> int:
    """A number of at least 1, as a type of `Arguments`."""
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word} found, a number of at least 1 expected")
    return int(word)


def expanded(word: str) -> str:
    """A word with `~` and environment variables replaced, as a type of `Arguments`."""
    try:
        return expand(word, "path")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("path: ")) from error


def path(word: str) -> Path:
    """A path, as a type of `Arguments`; see `expanded`."""
    return Path(expanded(word))


def pairs(words: list[str], command: str, own: tuple[str, ...]) -> list[list[str]]:
    """Take options of `fit` apart, each with its value: ["--a", "1", "--b=2"] to [["--a", "1"], ["--b=2"]].

    Args:
        words: as typed.
        command: whose words they are.
        own: beginnings of the options that the command sets itself.

    Raises:
        UserError: a word that is no option's, or an option of the command's own.
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
