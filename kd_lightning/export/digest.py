"""Write and verify the SHA-256 that an exported file carries of its other bytes."""

import hashlib
import json
import logging
import zipfile
from pathlib import Path

from kd_lightning.checkpoints.file import add_checksum, verify_checksum
from kd_lightning.errors import UserError

log = logging.getLogger(__name__)

KEY = "digest"
"""Metadata key that marks files written with a digest."""

ONNX_KEY = "file_sha256"
"""Key of the metadata entry at the end of an ONNX file: the digest of all bytes before it."""

PROTOBUF_STRINGS = (b"\x0a", b"\x12")
"""Protobuf tags of the key and the value of a metadata entry."""

METADATA_PROPS = b"\x72"
"""Protobuf tag of a metadata entry in an ONNX file."""


def write_digest(path: Path) -> None:
    """Append the digest to a new file: `.onnx`, or a zip archive."""
    if path.suffix == ".onnx":
        with path.open("r+b") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.write(_onnx_entry(digest))
    else:
        add_checksum(path)


def check_digest(path: Path, option: str) -> bool:
    """Verify the digest of a file.

    Args:
        path: `.onnx` or `.pt2`.
        option: the option that named the file, for errors.

    Returns:
        Whether the file has a digest.

    Raises:
        UserError: the file is damaged.
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
    except Exception as error:  # zipfile raises many kinds of errors
        raise UserError(f"{option}: {path} cannot be read: it is damaged, cut short, or no exported file") from error


def expect_digest(entries: dict[str, str], path: Path, option: str) -> None:
    """Refuse a file whose digest is missing; warn of one from a version without digests.

    Args:
        entries: the file's metadata.
        path: the file, without a digest.
        option: the option that named the file, for errors.
    """
    if KEY in entries:
        raise _damaged(path, option)
    log.warning(
        f"{option}: {path} has no digest, as files of earlier versions: damage cannot be detected; export it again"
    )


def _onnx_entry(digest: str) -> bytes:
    """Return a metadata entry as a field of ONNX's `ModelProto`, which may be appended to a file."""
    pair = _string(ONNX_KEY.encode(), 0) + _string(json.dumps(digest).encode(), 1)
    return METADATA_PROPS + bytes([len(pair)]) + pair


def _string(content: bytes, place: int) -> bytes:
    return PROTOBUF_STRINGS[place] + bytes([len(content)]) + content


def _damaged(path: Path, option: str) -> UserError:
    return UserError(
        f"{option}: {path} is damaged, or was changed since it was exported: its digest does not match; export it again"
    )
