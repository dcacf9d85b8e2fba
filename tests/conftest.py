import pytest

from kd_lightning import latency


@pytest.fixture(autouse=True)
def _passes_are_timed_once(request, monkeypatch):
    """What a pass takes is no test's business but `test_latency`'s; half a second for each of two sizes is."""
    if request.module.__name__ != "tests.test_latency":
        monkeypatch.setattr(latency, "LEAST", 1)
        monkeypatch.setattr(latency, "SECONDS", 0.0)
