"""Peak memory of a part of this process's life, such as a training."""

import re
from pathlib import Path

import torch

KIBIBYTES = 1024
"""In a MiB."""

OF_PROCESS = Path("/proc/self")
"""Where Linux tells of this process, and takes the request to forget its peak."""


class PeakMemory:
    """The largest memory in use since `start`.

    On a GPU, it is that of torch's tensors there; on a CPU, the resident size of the whole process, with all libraries.
    Only Linux can forget an earlier peak of a process: elsewhere that of a CPU is unknown.

    Attributes:
        before: peak of an earlier part of the same training, in MiB; None if unknown, or if there is none.
    """

    def __init__(self) -> None:
        self.before: float | None = None
        self._device: torch.device | None = None

    def start(self, device: torch.device) -> None:
        """Forget the peak on a device."""
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif device.type != "cpu" or not _forget_peak():
            self._device = None

    def peak(self) -> float | None:
        """Return the peak, with the part before, in MiB; None if the system does not tell."""
        now = None
        if self._device is not None and self._device.type == "cuda":
            now = round(torch.cuda.max_memory_allocated(self._device) / 2**20, 1)
        elif self._device is not None:
            now = _resident_peak()
        return max((peak for peak in (self.before, now) if peak is not None), default=None)


def _forget_peak() -> bool:
    """Set the peak of the resident size to its present value; return whether the system does so."""
    try:
        (OF_PROCESS / "clear_refs").write_text("5")  # see proc_pid_clear_refs(5)
    except OSError:
        return False
    return _resident_peak() is not None


def _resident_peak() -> float | None:
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", (OF_PROCESS / "status").read_text(), re.M)
    except OSError:
        return None
    return round(int(found[1]) / KIBIBYTES, 1) if found else None
