"""Show progress on a terminal: a bar for steps that can be counted, else one line."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")

ERASE_LINE = "\r\x1b[K"


def progress_bar(steps: Iterable[T], label: str, total: float | None = None, shown: bool = True) -> Iterable[T]:
    """Iterate over steps and show a bar that disappears at the end.

    Args:
        steps: what to iterate over.
        label: such as `decoding train`.
        total: number of steps, if they have no length.
        shown: false in all processes of a run but one.
    """
    if not (shown and sys.stdout.isatty()):
        return steps
    return track(steps, label, total, transient=True, console=Console())  # of the present stdout


@contextmanager
def status(label: str, shown: bool = True) -> Iterator[None]:
    """Show a line inside the context, without a thread: rich's status has one, which a fork would lose.

    Args:
        label: such as `measuring latency`.
        shown: false in all processes of a run but one.
    """
    shown = shown and sys.stdout.isatty()
    if shown:
        print(f"{label} …", end="", flush=True)
    try:
        yield
    finally:
        if shown:
            print(ERASE_LINE, end="", flush=True)
