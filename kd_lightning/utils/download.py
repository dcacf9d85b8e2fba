"""Downloading without waiting long for a server that does not answer."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 10.0
"""Seconds without an answer after which a server counts as out of reach."""


@contextmanager
def short_patience() -> Iterator[None]:
    """Let what is downloaded inside fail within seconds, not minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
