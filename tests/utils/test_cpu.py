import ctypes
import platform
import resource
from types import SimpleNamespace

import pytest
import torch

from kd_lightning.utils.cpu import configure_cpu

LARGE = 2**26
"""Bytes that glibc gives back when they are freed: more than 32 MiB."""

PAGE = 4096


def pages_fetched(times: int) -> int:
    """Pages that the system hands out while a large block is filled and freed again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(LARGE, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="freed memory is glibc's business alone")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    configure_cpu()
    pages_fetched(20)  # until the places between are large enough
    assert pages_fetched(5) < LARGE / PAGE / 10  # less than a tenth of one block


def test_denormal_numbers_are_zero() -> None:
    torch.set_flush_denormal(False)
    configure_cpu()
    assert (torch.full((8,), 1e-38) * 0.01).tolist() == [0.0] * 8


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_as_it_is(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: None) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    torch.set_flush_denormal(False)
    configure_cpu()
    assert (torch.full((8,), 1e-38) * 0.01).tolist() == [0.0] * 8


def test_a_glibc_that_refuses_a_high_threshold_gets_the_highest_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []

    def mallopt(option: int, value: int) -> int:
        said.append((option, value))
        return int(option != -3 or value <= 2**25)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    configure_cpu()
    assert said == [(-3, 2**31 - 1), (-3, 2**25), (-1, 2**31 - 1)]
