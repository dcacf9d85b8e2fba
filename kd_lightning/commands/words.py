"""Words of a command line that are partly a command's own, partly options of `fit`."""

import argparse
from typing import Any

from kd_lightning.errors import UserError


class Arguments(argparse.ArgumentParser):
    """A command's own options; a mistake in them is one line."""

    def error(self, message: str) -> Any:
        """Raise `UserError`, without a page of usage."""
        raise UserError(f"{self.prog.split()[-1]}: {message}")


def count(word: str) -> int:
    """A number of at least 1, as a type of `Arguments`."""
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word} found, a number of at least 1 expected")
    return int(word)


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
