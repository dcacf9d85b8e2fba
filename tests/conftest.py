import os

import pytest
import torch
from hypothesis import settings

from kd_lightning import latency

# The same examples everywhere, and as long as they take: a slow machine is no failure.
settings.register_profile("tests", derandomize=True, deadline=None)
settings.load_profile("tests")

# Two busy threads on two busy cores stall each other: one each, here and in the processes that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _passes_are_timed_once(request, monkeypatch):
    """What a pass takes is no test's business but `test_latency`'s; half a second for each of two sizes is."""
    if request.module.__name__ != "tests.test_latency":
        monkeypatch.setattr(latency, "LEAST", 1)
        monkeypatch.setattr(latency, "SECONDS", 0.0)
