"""Let downloads fail early where a server does not answer."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

TIMEOUT = 10.0
"""Seconds without an answer after which a download fails."""


@contextmanager
def short_timeout() -> Iterator[None]:
    """Let downloads inside the context fail within seconds, not minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
