import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kd_lightning.callbacks import ResultsWriter
from kd_lightning.utils import memory
from kd_lightning.utils.memory import PeakMemory

CPU = torch.device("cpu")


def started(device: torch.device = CPU) -> PeakMemory:
    memory = PeakMemory()
    memory.start(device)
    return memory


def used(mebibytes: int) -> float:
    """The peak while an array of so many MiB was filled."""
    peak = started()
    block = np.ones(mebibytes * 2**20, dtype=np.uint8)
    del block
    found = peak.peak()
    assert found is not None
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_the_peak_is_that_of_its_own_time() -> None:
    # In a process of its own, whose allocator has no memory left from other tests.
    program = f"from {__name__} import used; print(used(0), used(160), used(0))"
    printed = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout
    before, large, after = map(float, printed.split())
    assert 140 < large - before < 200
    assert after < large - 100  # it is forgotten


def test_a_system_that_does_not_forget_a_peak_does_not_know_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "OF_PROCESS", tmp_path / "absent")
    assert started().peak() is None
    monkeypatch.setattr(memory, "OF_PROCESS", tmp_path)
    (tmp_path / "status").write_text("Name: python\nVmPeak:\t9 kB\nVmHWM:\t  524800 kB\n")
    assert started().peak() == 512.5
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert started(torch.device("mps")).peak() is None


def test_on_a_gpu_it_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    device, forgotten = torch.device("cuda:1"), []
    cuda = SimpleNamespace(reset_peak_memory_stats=forgotten.append, max_memory_allocated=lambda of: 3 * 2**19)
    monkeypatch.setattr(memory.torch, "cuda", cuda)
    assert started(device).peak() == 1.5
    assert forgotten == [device]


def test_a_resumed_training_has_the_larger_peak_of_its_parts() -> None:
    writer = ResultsWriter()
    assert writer.state_dict()["peak_mebibytes"] is None
    writer.load_state_dict({"seconds": 1.0, "peak_mebibytes": 7e7})
    assert writer.state_dict()["peak_mebibytes"] == 7e7
    writer.load_state_dict({"seconds": 1.0})  # of an earlier version
    assert writer.state_dict()["peak_mebibytes"] is None
