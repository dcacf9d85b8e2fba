"""A small file neither fills the memory nor takes hours; a large one is read as it is."""

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_lightning.checkpoints.file import CHUNK_BYTES, MAX_PARTS, add_checksum, verify_checksum
from kd_lightning.checkpoints.io import AtomicCheckpointIO
from kd_lightning.checkpoints.weights import load_weights
from kd_lightning.errors import UserError
from kd_lightning.models import MLP

MEBIBYTE = 2**20


def small() -> dict[str, Tensor]:
    return MLP([4, 5, 3]).state_dict()


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def rezipped(content: bytes, compression: int, more: int = 0, pickled: bytes | None = None) -> bytes:
    """An archive with the parts of another, some empty ones, and another pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", compression) as new:
        for part in old.infolist():
            is_pickle = pickled is not None and part.filename.endswith("data.pkl")
            new.writestr(part.filename, pickled if is_pickle else old.read(part))
        for number in range(more):
            new.writestr(f"archive/data/more{number}", b"")
    return file.getvalue()


def huge() -> bytes:
    """170 kB that are 160 MiB."""
    return rezipped(saved({"state_dict": small(), "zeros": torch.zeros(40 * MEBIBYTE)}), zipfile.ZIP_DEFLATED)


def many() -> bytes:
    return rezipped(saved(small()), zipfile.ZIP_STORED, more=3)


def calls_bytearray() -> bytes:
    pickled = b"\x80\x02c__builtin__\nbytearray\n\x8a\x08" + struct.pack("<q", 2**40) + b"\x85R."
    return rezipped(saved(small()), zipfile.ZIP_STORED, pickled=pickled)


def calls_bytearray_of_old() -> bytes:
    file = io.BytesIO()
    torch.save({"a": bytearray(3)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def doubles() -> bytes:
    """Bytes, and their hexadecimal digits, and those of the digits, …"""

    def text(word: bytes) -> bytes:
        return b"X" + struct.pack("<I", len(word)) + word

    once = b"c_codecs\nencode\n" + text(b"a" * 1000) + text(b"latin1") + b"\x86R"
    for _ in range(40):
        once = b"c_codecs\nencode\n" + once + text(b"hex") + b"\x86R"
    return rezipped(saved(small()), zipfile.ZIP_STORED, pickled=b"\x80\x02" + once + b".")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (huge, "would unpack to 160.0 MiB, at most 65"),
        (many, "parts, at most 5 expected of a checkpoint"),
        (calls_bytearray, "makes bytes of any number while it is read"),
        (calls_bytearray_of_old, "makes bytes of any number while it is read"),
        (doubles, "makes bytes of any number while it is read"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".ckpt"])
def test_a_file_that_makes_more_than_it_holds_is_refused_before_it_is_read(
    make: Callable[[], bytes], message: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if make is many:
        monkeypatch.setattr("kd_lightning.checkpoints.file.MAX_PARTS", 5)
    path = tmp_path / f"hostile{suffix}"
    path.write_bytes(make())
    tracemalloc.start()
    with pytest.raises(UserError, match=f"teacher_ckpt: .*{message}"):
        load_weights(MLP([4, 5, 3]), path, "teacher_ckpt")
    assert tracemalloc.get_traced_memory()[1] < 4 * MEBIBYTE
    tracemalloc.stop()
    if make in (huge, many):
        with pytest.raises(UserError, match=r"ckpt_path: .* at most"):
            AtomicCheckpointIO().load_checkpoint(path)


def test_many_parts_are_more_than_any_network_has() -> None:
    assert MAX_PARTS == 100_000


def test_zeros_that_were_compressed_a_little_and_numbers_of_numpy_are_read(tmp_path: Path) -> None:
    path = tmp_path / "fine.pt"
    state = {"linear1.weight": torch.zeros(1500, 1500), "linear1.bias": torch.zeros(1500)}
    path.write_bytes(rezipped(saved({"state_dict": state, "best": np.float64(0.5)}), zipfile.ZIP_DEFLATED))
    load_weights(MLP([1500, 1500]), path, "teacher_ckpt")


def test_checking_a_sealed_file_takes_no_more_memory_than_a_chunk(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    torch.save({"a": torch.zeros(16 * MEBIBYTE // 4)}, path)
    add_checksum(path)
    tracemalloc.start()
    verify_checksum(path, "teacher_ckpt")
    assert tracemalloc.get_traced_memory()[1] < 3 * CHUNK_BYTES
    tracemalloc.stop()
