"""How long a network takes to answer."""

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

import torch
from torch import nn

from kd_lightning.utils.eval_mode import evaluating

BATCH_SIZES = (1, 128)
"""At which a test measures: an image as it comes, and many at once."""

MOST, LEAST, SECONDS = 100, 5, 0.5
"""Forward passes that are timed: at most so many, fewer once so many seconds are spent on them, but never too few."""


def measure_latency(
    network: nn.Module,
    image_shape: Sequence[int],
    batch_size: int,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> float:
    """The median time of one forward pass of one batch, in evaluation mode, from start to answer.

    The network and the global random state are left as they were found. Precision is the caller's: images have the
    type of the network's weights, and an autocast around the call holds.

    Args:
        network: images (B, C, H, W) to anything, its weights on `device`.
        image_shape: (C, H, W).
        batch_size: images a pass, at least 1.
        device: where the images are put.
        memory_format: in which order.

    Returns:
        Milliseconds.

    Raises:
        ValueError, RuntimeError: the network cannot read such a batch, or the device cannot hold it.
    """
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    # Random, as normalised pixels are: on blank images units fall silent, and a sparse or denormal path is timed.
    image = torch.randn(batch_size, *image_shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    image = image.contiguous(memory_format=memory_format)
    # A network may draw random numbers in evaluation mode too.
    unseen = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with evaluating(network), torch.no_grad(), unseen:
        return median_milliseconds(lambda: network(image), device)


def median_milliseconds(forward: Callable[[], object], device: torch.device) -> float:
    """The median time of one call; see `MOST`, `LEAST` and `SECONDS`."""
    return 1000 * median(_durations(forward, device))


def _durations(forward: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of each pass, but for a first one, which chooses kernels and finds memory."""
    forward()
    durations: list[float] = []
    while len(durations) < LEAST or (len(durations) < MOST and sum(durations) < SECONDS):
        _wait_for(device)
        start = perf_counter()
        forward()
        _wait_for(device)
        durations.append(perf_counter() - start)
    return durations


def _wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was told; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
