"""Reading a file of weights, whoever saved it, without running anything in it."""

import struct
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kd_lightning.errors import UserError

DAMAGED = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, struct.error)
"""What torch's readers raise on files that were cut short, changed, or never held weights."""


def read_weights(path: Path, option: str) -> Any:
    """Read what is in a file of tensors: of a `.safetensors` file its tensors, else what was saved with torch.

    Args:
        path: the file, which is there.
        option: what the user set it with, for errors.

    Raises:
        UserError: the file is damaged, no checkpoint, or a pickled module.
    """
    if path.stat().st_size == 0:
        raise UserError(f"{option}: {path} is empty (0 bytes), a checkpoint expected")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "Unsupported global" in str(error):
            raise UserError(
                f"{option}: {path} holds pickled Python objects, which are never run; "
                "where you trust it, save its tensors alone: torch.save(network.state_dict(), 'weights.pt')"
            ) from error
        raise UserError(f"{option}: {path} is not a checkpoint (.ckpt, .pt, .pth or .safetensors)") from error
    except (*DAMAGED, SafetensorError) as error:
        raise UserError(f"{option}: {path} cannot be read: it is damaged, cut short, or no checkpoint") from error


def misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What keeps a file's tensors from being a network's: names that only one has, then shapes that differ."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not in the network" for name in found if name not in expected]
    return problems + [
        f"{name} is {_shape(found[name])} in the file and {_shape(tensor)} in the network"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
