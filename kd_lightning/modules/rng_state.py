"""Save and restore the states of all random number generators that training uses."""

import random
from typing import Any

import numpy as np
import torch


def states(device: torch.device) -> dict[str, Any]:
    """Return the states of torch's, numpy's and Python's generators, in types that a checkpoint may contain."""
    name, keys, *position = np.random.get_state(legacy=True)  # noqa: NPY002  # a user's module may use it
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), np.asarray(keys).tolist(), *position],
        "python": random.getstate(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore(states: dict[str, Any], device: torch.device) -> None:
    """Set the generators to the states that `states` returned."""
    torch.set_rng_state(states["torch"].cpu())
    np.random.set_state(tuple(states["numpy"]))  # noqa: NPY002
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
