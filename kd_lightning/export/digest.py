"""The digest that an exported file carries: SHA-256 of all its other bytes, compared before the file is used."""

import hashlib
import json
import logging
import zipfile
from pathlib import Path

from kd_lightning.checkpoints.file import add_checksum, verify_checksum
from kd_lightning.errors import UserError

log = logging.getLogger(__name__)

KEY = "digest"
"""Of the metadata: whether the file was written with a digest."""

ONNX_KEY = "file_sha256"
"""Of the metadata entry at the end of an ONNX file: the digest of all bytes before it."""

PROTOBUF_STRINGS = (b"\x0a", b"\x12")
"""What precedes the key and the value of a metadata entry."""

METADATA_PROPS = b"\x72"
"""What precedes a metadata entry in an ONNX file."""


def write_digest(path: Path) -> None:
    """Add the digest to a file that was just written, `.onnx` or of zip's form."""
    if path.suffix == ".onnx":
        with path.open("r+b") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.write(_onnx_entry(digest))
    else:
        add_checksum(path)


def check_digest(path: Path, option: str) -> bool:
    """Compare a file with the digest that it carries.

    Args:
        path: `.onnx` or `.pt2`.
        option: what the user named the file with, for errors.

    Returns:
        Whether it carries one.

    Raises:
        UserError: the file is not as it was written.
    """
    if path.suffix == ".onnx":
        content = path.read_bytes()
        entry = content[-len(_onnx_entry("0" * 64)) :]
        if ONNX_KEY.encode() not in entry:
            return False
        if entry != _onnx_entry(hashlib.sha256(content[: -len(entry)]).hexdigest()):
            raise _damaged(path, option)
        return True
    try:
        verify_checksum(path, option)
    except UserError as error:
        raise _damaged(path, option) from error
    try:
        with zipfile.ZipFile(path) as parts:
            return bool(parts.comment)
    except Exception as error:  # zipfile has many ways of saying that this is no archive
        raise UserError(f"{option}: {path} cannot be read: it is damaged, cut short, or no exported file") from error


def expect_digest(said: dict[str, str], path: Path, option: str) -> None:
    """Refuse a file that lost its digest; warn of one that was exported before files had one.

    Args:
        said: the file's metadata.
        path: the file, without a digest.
        option: what the user named the file with, for errors.
    """
    if KEY in said:
        raise _damaged(path, option)
    log.warning(
        f"{option}: {path} has no digest, as files of earlier versions: damage cannot be noticed; export it anew"
    )


def _onnx_entry(digest: str) -> bytes:
    """A field of ONNX's `ModelProto`, which may stand at the end of a file: one more metadata entry, in JSON."""
    pair = _string(ONNX_KEY.encode(), 0) + _string(json.dumps(digest).encode(), 1)
    return METADATA_PROPS + bytes([len(pair)]) + pair


def _string(content: bytes, place: int) -> bytes:
    return PROTOBUF_STRINGS[place] + bytes([len(content)]) + content


def _damaged(path: Path, option: str) -> UserError:
    return UserError(
        f"{option}: {path} is damaged, or was changed since it was exported: its digest does not fit; export it anew"
    )
