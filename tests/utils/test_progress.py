"""What is shown while something takes its time."""

import io
import sys
import time

from kd_lightning.utils.progress import progress_bar, status


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_file_gets_nothing(capsys):
    with status("measuring"):
        assert list(progress_bar([1, 2], "decoding")) == [1, 2]
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_line_that_goes_away_again(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    with status("measuring"):
        assert sys.stdout.getvalue() == "measuring …"
    assert sys.stdout.getvalue() == "measuring …\r\x1b[K"


def test_a_terminal_gets_a_bar_within_a_line_too(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with status("reading"):
        for _ in progress_bar(range(1000), "decoding"):  # drawn ten times a second, by a thread of its own
            if "decoding" not in sys.stdout.getvalue():
                time.sleep(0.02)
    assert "decoding" in sys.stdout.getvalue()
    assert sys.stdout.getvalue().endswith("\r\x1b[K")


def test_one_process_of_several_shows_it(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    with status("measuring", shown=False):
        assert list(progress_bar([1], "decoding", shown=False)) == [1]
    assert sys.stdout.getvalue() == ""
