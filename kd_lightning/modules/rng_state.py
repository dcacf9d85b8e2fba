"""The states of the generators that a training draws from, in a checkpoint."""

import random
from typing import Any

import numpy as np
import torch


def states(device: torch.device) -> dict[str, Any]:
    """Where torch, numpy and Python are, in types that a checkpoint may hold."""
    name, keys, *place = np.random.get_state(legacy=True)  # noqa: NPY002  # a user's module may draw from it
    found: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), np.asarray(keys).tolist(), *place],
        "python": random.getstate(),
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore(kept: dict[str, Any], device: torch.device) -> None:
    """Put the generators back to where they were when `states` was asked."""
    torch.set_rng_state(kept["torch"].cpu())
    np.random.set_state(tuple(kept["numpy"]))  # noqa: NPY002
    version, internal, gauss = kept["python"]
    random.setstate((version, tuple(internal), gauss))
    if device.type == "cuda" and "cuda" in kept:
        torch.cuda.set_rng_state(kept["cuda"].cpu(), device)
