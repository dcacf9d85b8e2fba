"""Reading a file of weights, whoever saved it, without running anything in it."""

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
"""How a zip archive ends that has none: with its length."""

IS_FOLDER = 0x10
"""The bit of a zip entry's attributes that says so."""

DAMAGED = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, struct.error),
    *(AssertionError, OverflowError, MemoryError),
)
"""What torch's readers raise on files that were cut short, changed, or never held weights."""

SLACK, GROWTH = 2**26, 8
"""What is unpacked from a file takes at most `SLACK` bytes and `GROWTH` times the file: torch saves uncompressed."""

MOST_PARTS = 100_000
"""Parts of a zip archive of tensors: there is one for each tensor."""

LEGACY_PICKLES = 4
"""Pickles at the start of a file from before torch 1.6: a number, the version, the system, and the content."""

LONGEST_CODEC = 32
"""Characters of a codec's name."""

CHUNK = 2**20
"""Bytes read at once."""

INDEX = ".index.json"
"""How the name of the index of a state dict in several files ends."""


class _Ignored:
    """Stands for numpy's numbers, as in `{"best_accuracy": …}`, which need not be read; nothing of numpy runs."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


NUMPY = ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"]
"""What a pickled number of numpy's is made of."""


def read_weights(path: Path, option: str) -> Any:
    """Read what is in a file of tensors: of a safetensors file its tensors, else what was saved with torch.

    Args:
        path: the file, which is there.
        option: what the user set it with, for errors.

    Raises:
        UserError: the file is damaged, no checkpoint, a pickled module, the index of several files, or unpacks to far
            more than its size.
    """
    if path.stat().st_size == 0:
        raise UserError(f"{option}: {path} is empty (0 bytes), a checkpoint expected")
    if path.name.endswith(INDEX):
        raise UserError(
            f"{option}: {path} is the index of a state dict in several files, one file expected; join them: load each "
            "with safetensors.torch.load_file (or torch.load), and save all tensors with torch.save"
        )
    try:
        if path.suffix == ".safetensors" or _is_safetensors(path):
            return load_file(path)
        check_whole(path, option)
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
    """Whether a file begins with the length of a JSON header, and that header."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def digest_of(path: Path) -> str:
    """SHA-256 of a file, read in parts."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        UserError: a part of the file is not as it was written, or they unpack to far more than the file's size.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as parts:
            _check_unpacked(path, parts.infolist(), option)
            whole = _as_sealed(path, parts.comment.decode()) if parts.comment else _checksums_fit(parts)
    except (*DAMAGED, zipfile.BadZipFile, zlib.error, NotImplementedError):
        whole = False
    if not whole:
        raise UserError(f"{option}: {path} is damaged: its checksums do not fit; use another, or train it anew")


def _as_sealed(path: Path, digest: str) -> bool:
    left = path.stat().st_size - len(NO_COMMENT) - len(digest)
    found = hashlib.sha256()
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, CHUNK))):
            found.update(chunk)
            left -= len(chunk)
    found.update(NO_COMMENT)
    return found.hexdigest() == digest


def _checksums_fit(parts: zipfile.ZipFile) -> bool:
    # A part that calls itself a folder is read as nothing.
    return parts.testzip() is None and not any(part.external_attr & IS_FOLDER for part in parts.infolist())


def _check_unpacked(path: Path, parts: list[zipfile.ZipInfo], option: str) -> None:
    """Raise `UserError` where the parts of an archive are far more than its bytes, before any of them is read."""
    unpacked, most = sum(part.file_size for part in parts), SLACK + GROWTH * path.stat().st_size
    if unpacked > most:
        raise UserError(
            f"{option}: {path} would unpack to {_mebibytes(unpacked)}, at most {_mebibytes(most)} expected of its "
            "size; torch saves checkpoints uncompressed"
        )
    if len(parts) > MOST_PARTS:
        raise UserError(f"{option}: {path} has {len(parts)} parts, at most {MOST_PARTS} expected of a checkpoint")


def _check_calls(path: Path, option: str) -> None:
    """Raise `UserError` where what torch lets a pickle call would make far more bytes than the pickle has."""
    if not zipfile.is_zipfile(path):  # of before torch 1.6: the pickles stand before the numbers
        grows = False
        with path.open("rb") as file, suppress(ValueError):  # no pickle: torch says what it is
            grows = any(_grows(file) for _ in range(LEGACY_PICKLES))
    else:
        with zipfile.ZipFile(path) as parts:
            names = [name for name in parts.namelist() if name.endswith(".pkl")]
            grows = any(_grows(parts.open(name)) for name in names)
    if grows:
        raise UserError(f"{option}: {path} makes bytes of any number while it is read, which no weights need")


def _grows(pickled: IO[bytes]) -> bool:
    """Whether a pickle calls `bytearray`, or encodes into digits, such as hex."""
    encodes, words = False, []
    for code, argument, _ in genops(pickled):
        if not isinstance(argument, str):
            continue
        if code.name in ("GLOBAL", "INST"):
            if argument.endswith(" bytearray"):
                return True
            encodes |= argument == "_codecs encode"
        elif len(argument) <= LONGEST_CODEC:
            words.append(argument)
    return encodes and any(map(_is_of_digits, words))


def _is_of_digits(word: str) -> bool:
    try:
        return not codecs.lookup(word)._is_text_encoding
    except (LookupError, ValueError):
        return False


def check_sizes(tensors: Mapping[str, Tensor], path: Path, option: str) -> None:
    """Compare the memory that tensors' shapes need with what the file holds of them, before they are copied.

    A tensor of stride 0 repeats one number over any shape.

    Args:
        tensors: as they were read.
        path: the file.
        option: what the user set it with, for errors.

    Raises:
        UserError: they need far more than the file holds.
    """
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    storages = [tensor.untyped_storage() for tensor in tensors.values()]
    held = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    if needed > (most := SLACK + GROWTH * held):
        raise UserError(
            f"{option}: the weights in {path} need {_mebibytes(needed)}, at most {_mebibytes(most)} expected of the "
            f"{_mebibytes(held)} that the file holds of them"
        )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
