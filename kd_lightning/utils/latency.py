"""Measure the time of a forward pass."""

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

import torch
from torch import nn

from kd_lightning.utils.eval_mode import eval_mode

BATCH_SIZES = (1, 128)
"""Batch sizes at which a test measures: a single image, and throughput."""

MAX_PASSES, MIN_PASSES, MAX_SECONDS = 100, 5, 0.5
"""Timed forward passes: until either limit is reached, but at least `MIN_PASSES`."""


def measure_latency(
    network: nn.Module,
    image_shape: Sequence[int],
    batch_size: int,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> float:
    """Return the median time of one forward pass of one batch in evaluation mode.

    The network's mode and the global random state are restored. Images have the dtype of the network's weights, and an
    autocast around the call applies.

    Args:
        network: images (B, C, H, W) to anything, its weights on `device`.
        image_shape: (C, H, W).
        batch_size: images per pass, at least 1.
        device: where the images are.
        memory_format: of the images.

    Returns:
        Milliseconds.

    Raises:
        ValueError, RuntimeError: the network cannot read such a batch, or the device cannot hold it.
    """
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    # Random like normalised pixels: blank images would deactivate units and time a sparse or denormal path.
    image = torch.randn(batch_size, *image_shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    image = image.contiguous(memory_format=memory_format)
    # A network may draw random numbers in evaluation mode too.
    forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with eval_mode(network), torch.no_grad(), forked:
        return median_milliseconds(lambda: network(image), device)


def median_milliseconds(forward: Callable[[], object], device: torch.device) -> float:
    """Return the median time of one call; see `MAX_PASSES`, `MIN_PASSES` and `MAX_SECONDS`."""
    return 1000 * median(_durations(forward, device))


def _durations(forward: Callable[[], object], device: torch.device) -> list[float]:
    """Return the seconds of each pass after a first one, which selects kernels and allocates memory."""
    forward()
    durations: list[float] = []
    while len(durations) < MIN_PASSES or (len(durations) < MAX_PASSES and sum(durations) < MAX_SECONDS):
        _wait_for(device)
        start = perf_counter()
        forward()
        _wait_for(device)
        durations.append(perf_counter() - start)
    return durations


def _wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished; a CPU computes synchronously."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
