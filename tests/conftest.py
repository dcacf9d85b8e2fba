import gc
import logging
import os
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from matplotlib.figure import Figure
from PIL import Image

from kd_lightning.utils import latency

# The same examples everywhere, and as long as they take: a slow machine is no failure.
settings.register_profile("tests", derandomize=True, deadline=None)
settings.load_profile("tests")

# Two busy threads on two busy cores stall each other: one each, here and in the processes that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# Decoded images go into a cache of the tests' own, in the processes that they start too. matplotlib's stays.
_cache = tempfile.TemporaryDirectory(prefix="kd_lightning_tests_")
os.environ.setdefault(
    "MPLCONFIGDIR", str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "matplotlib")
)
os.environ["XDG_CACHE_HOME"] = _cache.name


def pytest_collection_finish():
    """Spare the garbage collector what torch and Lightning leave for good: a tenth of the suite's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


@pytest.fixture(autouse=True)
def _passes_are_timed_once(request, monkeypatch):
    """What a pass takes is no test's business but `test_latency`'s; half a second for each of two sizes is."""
    if request.module.__name__ != "tests.utils.test_latency":
        monkeypatch.setattr(latency, "MIN_PASSES", 1)
        monkeypatch.setattr(latency, "MAX_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def _lightning_says_as_much_as_before():
    """Undo what `sweep`, `reproduce` and others silence in their process."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def _plots_are_rendered_where_they_are_tested(request, monkeypatch):
    """Write a blank picture in place of each plot elsewhere: rendering takes half of a test command."""

    def write_blank(figure, file):
        figure.canvas.get_renderer()  # blank pixels
        Image.new("RGB", (4, 4)).save(file, "PNG")

    if not request.module.__name__.startswith(
        ("tests.callbacks.", "tests.test_dashboard", "tests.cli.test_lightning", "tests.commands.test_sweep")
    ):
        monkeypatch.setattr(Figure, "savefig", write_blank)
