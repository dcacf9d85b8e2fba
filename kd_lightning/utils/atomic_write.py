"""Write files atomically: readers see the old content or the new, never a part."""

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
except ImportError:  # Windows: without locks no temporary file is known to be abandoned, and none is removed
    fcntl = None  # type: ignore[assignment]

MARK = ".kd_lightning-temporary-"
"""Part of the name of every temporary file and folder of this project, and of no other file."""

MAX_NAME_BYTES, MAX_SUFFIX_BYTES = 100, 20
"""Longest name and suffix that a temporary file's name repeats; file systems allow 255 bytes for the whole name."""

ABANDONED_AFTER = 3600.0
"""Seconds without a change after which a temporary file that no process has locked is removed."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file in the same folder, which replaces the file at the end of the context.

    The new content is flushed to the disk first. If anything fails, the old file stays and the temporary file is
    removed.

    Raises:
        UserError: the file cannot be written, as on a full disk.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, path.name)
        suffix = path.suffix if len(os.fsencode(path.suffix)) <= MAX_SUFFIX_BYTES else ""
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path.name), suffix=suffix)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
    temporary = Path(name)
    try:
        _lock(handle)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)  # readable by other users; mkstemp creates private files
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        os.close(handle)  # releases the lock
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(folder: Path, name: str) -> Iterator[Path]:
    """Create a temporary folder, and remove it at the end of the context unless it was renamed.

    Args:
        folder: the parent folder, created if it does not exist.
        name: what the temporary folder becomes; what killed processes left of this name is removed first.

    Raises:
        OSError: it cannot be created.
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
    """Remove the temporary files and folders of `name` that killed processes have left.

    Their names begin with `name` and our mark, no process has locked them, and they have not changed for an hour.
    """
    for left in folder.glob(f"{glob.escape(_prefix(name))}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_AFTER and _is_unlocked(left):
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()


def _prefix(name: str) -> str:
    """Return the start of the names of a file's temporary files; a digest replaces a long name."""
    raw = os.fsencode(name)
    return f".{name if len(raw) <= MAX_NAME_BYTES else hashlib.sha256(raw).hexdigest()}{MARK}"


def _lock(handle: int) -> None:
    """Lock a file until it is closed, or its process ends; some file systems have no locks."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_unlocked(path: Path) -> bool:
    """Return whether no process has locked a file; False where that cannot be determined."""
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
    """Write a text file in UTF-8 by `atomic_write`; file names in it that are not UTF-8 keep their bytes."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
