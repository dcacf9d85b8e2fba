"""What a command that trains many times prints, and what it keeps quiet."""

import logging
import sys

from rich.console import Console

FILE_WIDTH = 160
"""Columns of what is printed into a file or pipe."""


def quiet_console() -> Console:
    """Leave out what Lightning says of every single run but its warnings; a console for the command's own lines."""
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False, markup=False)
