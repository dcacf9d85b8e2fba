"""What is shown, on a terminal alone, while something takes its time."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")

ERASE = "\r\x1b[K"


def bar(steps: Iterable[T], what: str, total: float | None = None, shown: bool = True) -> Iterable[T]:
    """Hand steps on, under a bar that goes away when they are done.

    Args:
        steps: what is done one by one.
        what: what they are for, as `decoding train`.
        total: how many there are, where they do not say it themselves.
        shown: false in all processes of a run but one.
    """
    if not (shown and sys.stdout.isatty()):
        return steps
    return track(steps, what, total, transient=True, console=Console())  # of stdout as it is now


@contextmanager
def line(what: str, shown: bool = True) -> Iterator[None]:
    """Say what is waited for, in a line that goes away when it is done.

    Args:
        what: as `measuring latency`.
        shown: false in all processes of a run but one.
    """
    shown = shown and sys.stdout.isatty()
    if shown:
        print(f"{what} …", end="", flush=True)
    try:
        yield
    finally:
        if shown:
            print(ERASE, end="", flush=True)
