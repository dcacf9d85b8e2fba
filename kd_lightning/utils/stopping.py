"""What SIGTERM does: it stops a command at once; a training ends its step first, and writes a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(SystemExit):
    """A signal stopped the command; the exit status is the one that shells know it by: 143 for SIGTERM, 130 for SIGINT.

    Args:
        number: of the signal.
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
    """Let SIGTERM raise `Stopped` wherever the command is, unless a training listens to it.

    Lightning listens to SIGTERM in everything that it runs, but acts on it between the steps of a training alone. It
    calls the handler that it found, too, which is the one set here.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
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
    """Say whether a training acts on SIGTERM itself, at the end of its step."""
    _State.training = listens


def check() -> None:
    """Raise `Stopped` if SIGTERM was received: Python drops what a handler raises while an object is being deleted."""
    if _State.received:
        raise Stopped
