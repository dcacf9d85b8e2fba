"""Read a file of weights from anyone without running code in it or exhausting memory."""

import codecs
import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from pickletools import genops
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kd_lightning.errors import UserError

NO_COMMENT = b"\0\0"
"""The end of a zip archive without a comment: the length of the comment."""

IS_FOLDER = 0x10
"""The bit of a zip entry's attributes that marks a folder."""

DAMAGED = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, struct.error),
    *(AssertionError, OverflowError, MemoryError),
)
"""Exceptions of torch's readers for truncated, altered and other files."""

BASE_BYTES, MAX_GROWTH = 2**26, 8
"""A file may unpack to `BASE_BYTES` plus `MAX_GROWTH` times its size: torch saves uncompressed."""

MAX_PARTS = 100_000
"""Parts of a zip archive; a checkpoint has one for each tensor."""

LEGACY_PICKLES = 4
"""Pickles at the start of a file from before torch 1.6: magic number, protocol, system, content."""

MAX_CODEC_LENGTH = 32
"""Characters of a codec's name."""

CHUNK_BYTES = 2**20
"""Bytes read at a time."""

INDEX_SUFFIX = ".index.json"
"""Suffix of the index of a state dict in several files."""


class _Ignored:
    """Replaces numpy scalars, as in `{"best_accuracy": …}`, which are not needed, so that no code of numpy runs."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


NUMPY = ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"]
"""Globals of a pickled numpy scalar."""


def read_weights(path: Path, option: str) -> Any:
    """Read the tensors of a safetensors file, or the object in a file that torch saved.

    Args:
        path: an existing file.
        option: the option that named the file, for errors.

    Raises:
        UserError: the file is damaged, no checkpoint, a pickled module, the index of several files, or unpacks to far
            more than its size.
    """
    if path.stat().st_size == 0:
        raise UserError(f"{option}: {path} is empty (0 bytes), a checkpoint expected")
    if path.name.endswith(INDEX_SUFFIX):
        raise UserError(
            f"{option}: {path} is the index of a state dict in several files, one file expected; join them: load each "
            "with safetensors.torch.load_file (or torch.load), and save all tensors with torch.save"
        )
    try:
        if path.suffix == ".safetensors" or _is_safetensors(path):
            return load_file(path)
        verify_checksum(path, option)
        _check_calls(path, option)
        with torch.serialization.safe_globals([(_Ignored, name) for name in NUMPY]):
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


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins with the length of a JSON header, and that header."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_checksum(path: Path) -> None:
    """Append a SHA-256 of a file that torch saved to it, as the comment of the zip archive."""
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(-len(NO_COMMENT), os.SEEK_END)
        file.write(struct.pack("<H", len(digest)) + digest.encode())


def verify_checksum(path: Path, option: str) -> None:
    """Verify the checksum of a file that torch saved; one without it, by the checksums of the zip format.

    torch itself verifies neither.

    Args:
        path: an existing file; other than zip archives pass.
        option: the option that named the file, for errors.

    Raises:
        UserError: the file is damaged, or unpacks to far more than its size.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as parts:
            _check_unpacked(path, parts.infolist(), option)
            intact = _has_checksum(path, parts.comment.decode()) if parts.comment else _zip_checksums_match(parts)
    except (*DAMAGED, zipfile.BadZipFile, zlib.error, NotImplementedError):
        intact = False
    if not intact:
        raise UserError(f"{option}: {path} is damaged: its checksums do not fit; use another, or train it anew")


def _has_checksum(path: Path, digest: str) -> bool:
    left = path.stat().st_size - len(NO_COMMENT) - len(digest)
    found = hashlib.sha256()
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, CHUNK_BYTES))):
            found.update(chunk)
            left -= len(chunk)
    found.update(NO_COMMENT)
    return found.hexdigest() == digest


def _zip_checksums_match(parts: zipfile.ZipFile) -> bool:
    # A part marked as a folder would be read as empty.
    return parts.testzip() is None and not any(part.external_attr & IS_FOLDER for part in parts.infolist())


def _check_unpacked(path: Path, parts: list[zipfile.ZipInfo], option: str) -> None:
    """Raise `UserError` for an archive that unpacks to far more than its size, before unpacking it."""
    unpacked, most = sum(part.file_size for part in parts), BASE_BYTES + MAX_GROWTH * path.stat().st_size
    if unpacked > most:
        raise UserError(
            f"{option}: {path} would unpack to {_mebibytes(unpacked)}, at most {_mebibytes(most)} expected of its "
            "size; torch saves checkpoints uncompressed"
        )
    if len(parts) > MAX_PARTS:
        raise UserError(f"{option}: {path} has {len(parts)} parts, at most {MAX_PARTS} expected of a checkpoint")


def _check_calls(path: Path, option: str) -> None:
    """Raise `UserError` for a pickle whose calls, among those that torch allows, create bytes of any number."""
    if not zipfile.is_zipfile(path):  # from before torch 1.6: the pickles precede the numbers
        grows = False
        with path.open("rb") as file, suppress(ValueError):  # no pickle: torch raises a better error
            grows = any(_grows(file) for _ in range(LEGACY_PICKLES))
    else:
        with zipfile.ZipFile(path) as parts:
            names = [name for name in parts.namelist() if name.endswith(".pkl")]
            grows = any(_grows(parts.open(name)) for name in names)
    if grows:
        raise UserError(f"{option}: {path} makes bytes of any number while it is read, which no weights need")


def _grows(pickled: IO[bytes]) -> bool:
    """Return whether a pickle calls `bytearray`, or an encoding of bytes as digits, such as hex."""
    encodes, words = False, []
    for code, argument, _ in genops(pickled):
        if not isinstance(argument, str):
            continue
        if code.name in ("GLOBAL", "INST"):
            if argument.endswith(" bytearray"):
                return True
            encodes |= argument == "_codecs encode"
        elif len(argument) <= MAX_CODEC_LENGTH:
            words.append(argument)
    return encodes and any(map(_is_of_digits, words))


def _is_of_digits(word: str) -> bool:
    try:
        return not codecs.lookup(word)._is_text_encoding
    except (LookupError, ValueError):
        return False


def check_sizes(tensors: Mapping[str, Tensor], path: Path, option: str) -> None:
    """Compare the memory that tensors need with their bytes in the file, before they are copied.

    A tensor of stride 0 repeats one number over any shape.

    Args:
        tensors: as read from the file.
        path: the file.
        option: the option that named the file, for errors.

    Raises:
        UserError: the tensors need far more than their bytes in the file.
    """
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    storages = [tensor.untyped_storage() for tensor in tensors.values()]
    held = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    if needed > (most := BASE_BYTES + MAX_GROWTH * held):
        raise UserError(
            f"{option}: the weights in {path} need {_mebibytes(needed)}, at most {_mebibytes(most)} expected of the "
            f"{_mebibytes(held)} that the file holds of them"
        )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
