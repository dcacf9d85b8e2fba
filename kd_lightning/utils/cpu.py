"""What a process has to say once for its steps on a CPU to be fast."""

import ctypes

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of `mallopt`'s options, from glibc's malloc.h."""

MOST_BYTES = 2**31 - 1
"""The largest value that an option takes."""

MOST_BYTES_ONCE = 2**25
"""The largest threshold that glibc took before version 2.35; it refuses others."""


def make_cpu_fast() -> None:
    """Flush denormal numbers to zero, and keep freed memory for the next step. Whole process; to be said once or more.

    Adam's moments of a dead unit decay into denormal numbers, on which a step takes several times as long.

    glibc gives every block of more than 32 MiB back to the system as soon as it is freed, and a convolutional network's
    next step then waits for the system to clear its pages: a quarter of the time of a step of the CIFAR-10 tutorial's
    teacher at batch 128 (382 ms against 278, medians of 20). Other C libraries are left as they are.
    """
    torch.set_flush_denormal(True)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return
    # The threshold first: any option that is set stops glibc from raising it by itself.
    if not mallopt(MMAP_THRESHOLD, MOST_BYTES):
        mallopt(MMAP_THRESHOLD, MOST_BYTES_ONCE)
    mallopt(TRIM_THRESHOLD, MOST_BYTES)
