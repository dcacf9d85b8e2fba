"""Files that are replaced in one step, or not at all."""

import glob
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kd_lightning.errors import UserError, one_line

try:
    import fcntl
except ImportError:  # on Windows, where nothing is known to be abandoned, and so nothing is removed
    fcntl = None  # type: ignore[assignment]

MARK = ".kd_lightning-temporary-"
"""What the names of our temporary files and folders have in them, and no others."""

LONGEST_NAME, LONGEST_SUFFIX = 100, 20
"""Bytes of a name and of its suffix that stand in a temporary file's: all have room for 255."""

ABANDONED = 3600.0
"""Seconds since its last change after which a temporary file that no process has locked is removed."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary file beside a file to write to; it replaces the file once it is complete and on the disk.

    Readers see the old file or the new one. Whatever goes wrong, the old one stays, and no temporary file.

    Raises:
        UserError: the file cannot be written, as on a full disk.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, path.name)
        suffix = path.suffix if len(os.fsencode(path.suffix)) <= LONGEST_SUFFIX else ""
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path.name), suffix=suffix)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
    draft = Path(name)
    try:
        _lock(handle)
        yield draft
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.chmod(0o644)  # for others too
        draft.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        os.close(handle)  # and with it goes the lock
        draft.unlink(missing_ok=True)


@contextmanager
def temporary_folder(folder: Path, name: str) -> Iterator[Path]:
    """Make a temporary folder within a folder; it is removed in the end, unless it was renamed.

    Args:
        folder: where it is made, itself made if need be.
        name: of what will take shape in it; what killed processes left under this name is removed first.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder, name)
    made = Path(tempfile.mkdtemp(dir=folder, prefix=_prefix(name)))
    handle = os.open(made, os.O_RDONLY)
    try:
        _lock(handle)
        yield made
    finally:
        os.close(handle)
        shutil.rmtree(made, ignore_errors=True)


def remove_abandoned(folder: Path, name: str) -> None:
    """Remove the temporary files and folders that killed processes left on the way to `name`.

    They have our mark behind `name` in their own names, no process holds a lock on them, and they were not changed for
    an hour.
    """
    for left in folder.glob(f"{glob.escape(_prefix(name))}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED and _is_unlocked(left):
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()


def _prefix(name: str) -> str:
    """What the names of the temporary files for a name begin with; a long name is told by its digest."""
    raw = os.fsencode(name)
    return f".{name if len(raw) <= LONGEST_NAME else hashlib.sha256(raw).hexdigest()}{MARK}"


def _lock(handle: int) -> None:
    """Hold a file's lock until it is closed, by this process or by its end; some file systems have none."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_unlocked(path: Path) -> bool:
    """Whether no process holds the lock; where that cannot be known it is taken to be held."""
    if fcntl is None:
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8; names of files in it keep their bytes, whatever they are. See `whole_file`."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="surrogateescape")
