"""Reading a file of weights, whoever saved it, without running anything in it."""

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kd_lightning.errors import UserError

NO_COMMENT = b"\0\0"
"""How a zip archive ends that has none: with its length."""

IS_FOLDER = 0x10
"""The bit of a zip entry's attributes that says so."""

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
        check_whole(path, option)
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


def seal(path: Path) -> None:
    """Put a digest of all bytes of a file that torch saved behind them, where a zip archive may have a comment."""
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(-len(NO_COMMENT), os.SEEK_END)
        file.write(struct.pack("<H", len(digest)) + digest.encode())


def check_whole(path: Path, option: str) -> None:
    """Compare a file that torch saved with its seal; one without, with the checksums in it, which torch never reads.

    Args:
        path: the file, which is there; one of another kind is passed over.
        option: what the user set it with, for errors.

    Raises:
        UserError: a part of the file is not as it was written.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as parts:
            whole = _as_sealed(path, parts.comment.decode()) if parts.comment else _checksums_fit(parts)
    except (*DAMAGED, zipfile.BadZipFile, zlib.error, NotImplementedError):
        whole = False
    if not whole:
        raise UserError(f"{option}: {path} is damaged: its checksums do not fit; use another, or train it anew")


def _as_sealed(path: Path, digest: str) -> bool:
    content = path.read_bytes()[: -len(NO_COMMENT) - len(digest)]
    return hashlib.sha256(content + NO_COMMENT).hexdigest() == digest


def _checksums_fit(parts: zipfile.ZipFile) -> bool:
    # A part that calls itself a folder is read as nothing.
    return parts.testzip() is None and not any(part.external_attr & IS_FOLDER for part in parts.infolist())


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
