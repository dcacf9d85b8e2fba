"""A headless Chromium, spoken to through the pipe that its developers' tools have."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import Any, Self

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

SECONDS = 60.0
"""That a page has to show what is asked for."""

START = """
import os, sys
os.dup2(int(sys.argv[1]), 3), os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads what it is told from 3 and answers on 4."""

ALL_TEXT = """
(function text(node) {
    if (node.nodeType === Node.TEXT_NODE) return node.data;
    if (["SCRIPT", "STYLE"].includes(node.tagName)) return "";
    return [node.shadowRoot, ...node.childNodes].map(inner => inner ? text(inner) : "").join(" ");
})(document.body)
"""
"""Of a page, with that of the web components in it."""


class Browser:
    """One window.

    Args:
        profile: an empty folder for what the browser writes.
    """

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM
        hears, self._tell = _pipe()
        self._hear, tells = _pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        words = [CHROMIUM, *options, "--remote-debugging-pipe", f"--user-data-dir={profile}", "--window-size=1500,1100"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(hears), str(tells), *words],
            pass_fds=(hears, tells),
            stderr=subprocess.DEVNULL,
        )
        os.close(hears), os.close(tells)
        self._heard, self._number, self._session = b"", 0, {}
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._tell), os.close(self._hear)

    def open(self, url: str, *expected: str) -> str:
        """Open a page and wait until it shows all that is expected; its words, a space between two."""
        self._ask("Page.navigate", url="about:blank")  # or an address that differs in its fragment alone loads nothing
        self._ask("Page.navigate", url=url)
        end = time.monotonic() + SECONDS
        while True:
            shown = " ".join(self._ask("Runtime.evaluate", expression=ALL_TEXT)["result"].get("value", "").split())
            missing = [words for words in expected if words not in shown]
            if not missing:
                return shown
            assert time.monotonic() < end, f"{url} does not show {missing}, but: {shown}"
            time.sleep(0.5)

    def picture(self, file: Path) -> None:
        """Write what the window shows as a PNG."""
        file.write_bytes(b64decode(self._ask("Page.captureScreenshot", format="png")["data"]))

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._tell, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "result" in answer, answer
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._heard:
            assert select.select([self._hear], [], [], SECONDS)[0], "the browser does not answer"
            more = os.read(self._hear, 2**16)
            assert more, "the browser has ended"
            self._heard += more
        message, _, self._heard = self._heard.partition(b"\0")
        return json.loads(message)


def _pipe() -> list[int]:
    """Both ends of a pipe, out of the way of the numbers that the browser wants."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high
