"""Read a list of names from YAML or from a text file."""

from collections.abc import Sequence
from pathlib import Path

from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.paths import expand


def read_lines(given: str | Sequence[str], option: str) -> list[str]:
    """Return the lines of a text file, or of a list, without surrounding white space and without empty lines.

    Args:
        given: path of a text file in UTF-8, or the lines themselves.
        option: the option that named them, for errors.

    Raises:
        UserError: the file cannot be read.
    """
    lines = given
    if isinstance(given, str):
        file = Path(expand(given, option))
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{option}: {file} cannot be read ({one_line(error)}); a text file of class names, or a list, expected"
            ) from error
    return [line for each in lines if (line := each.strip())]
