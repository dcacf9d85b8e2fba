"""Handle SIGTERM: stop a command at once, but let a training finish its step and write a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(SystemExit):
    """A signal stopped the command; the exit status is 143 for SIGTERM, 130 for SIGINT.

    Args:
        number: the signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)


class _State:
    received = False
    training = False


def _stop(number: int, frame: Any) -> None:
    _State.received = True
    if not _State.training:
        raise Stopped(number)


@contextmanager
def stops_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `Stopped` anywhere inside the context, unless a training handles it.

    Lightning installs a handler in everything that it runs, but acts on it between training steps alone. It also calls
    the handler that it replaced, which is the one set here.
    """
    if threading.current_thread() is not threading.main_thread():  # no other thread may set handlers
        yield
        return
    _State.received = _State.training = False
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
        check()
    finally:
        signal.signal(signal.SIGTERM, before)


def training_listens(listens: bool) -> None:
    """Set whether a training handles SIGTERM itself, at the end of its step."""
    _State.training = listens


def check() -> None:
    """Raise `Stopped` if SIGTERM was received: Python discards what a handler raises while an object is deleted."""
    if _State.received:
        raise Stopped
