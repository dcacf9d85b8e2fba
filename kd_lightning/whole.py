"""Files that are replaced whole or not at all."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kd_lightning.errors import UserError, one_line

ABANDONED = 3600.0
"""Seconds after which a draft is nobody's: what wrote it was killed."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a draft beside a file to write to; it takes the file's place once all of it is on the disk.

    Readers see the old file or the new one. Whatever goes wrong, the old one stays, and no draft.

    Raises:
        UserError: the file cannot be written, as on a full disk.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
    draft = Path(name)
    try:
        yield draft
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.chmod(0o644)  # for others too
        draft.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8; names of files in it keep their bytes, whatever they are. See `whole_file`."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="surrogateescape")


def _remove_abandoned(path: Path) -> None:
    for draft in path.parent.glob(f".{path.name}.*"):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > ABANDONED:
                draft.unlink()
