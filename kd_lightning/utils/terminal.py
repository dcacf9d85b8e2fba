"""The console of commands that train many runs."""

import logging
import sys

from rich.console import Console

FILE_WIDTH = 160
"""Columns of output to a file or pipe."""


def quiet_console() -> Console:
    """Return a console for a command's own lines, and silence Lightning's messages about each run but warnings."""
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False, markup=False)
