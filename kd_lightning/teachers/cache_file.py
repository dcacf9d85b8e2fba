"""Name the file of a logit cache, beside the teacher's checkpoint or in the user's cache folder; remove old ones."""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from kd_lightning.checkpoints.digest import weights_digest
from kd_lightning.checkpoints.file import digest_of
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.paths import user_cache_folder

MAX_NAME_BYTES = 140
"""Part of a checkpoint's name that its cache's name repeats. File systems allow 255 bytes for the whole name; the cache
adds 53, and its lock file and temporary file have longer names still."""

USER_FOLDER = "teacher_logits"
"""Folder, in the user's cache folder, for logits of networks as they were built."""

MAX_USER_BYTES = 10 * 2**30
"""Size of that folder above which the files that were not used for longest are removed."""

CACHE_FILE = re.compile(
    r"(?P<checkpoint>.+)\.(?P<kind>logits|answers)-(?P<weights>[0-9a-f]{16})-[0-9a-f]{16}\.safetensors"
)
"""Names of cache files; versions before 0.2 named them `answers`."""


def cache_file(checkpoint: Path, key: str) -> Path:
    """Return the path, beside a checkpoint, for the logits of its weights under a key.

    Args:
        checkpoint: the teacher's weights.
        key: what else the logits depend on.
    """
    digests = digest_of(checkpoint)[:16], hashlib.sha256(key.encode()).hexdigest()[:16]
    return checkpoint.with_name(f"{_shortened(checkpoint.name)}.logits-{'-'.join(digests)}.safetensors")


def user_cache_file(network: nn.Module, key: str) -> Path | None:
    """Return the path, in the user's cache folder, for the logits of a network as it was built; None without a home.

    Args:
        network: the teacher; the file is named after a digest of its weights.
        key: what else the logits depend on.
    """
    try:
        folder = user_cache_folder("cache_teacher") / USER_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, UserError) as error:
        rank_zero_warn(f"cache_teacher: logits are not kept for later runs ({one_line(error)})")
        return None
    digests = weights_digest(network)[:16], hashlib.sha256(key.encode()).hexdigest()[:16]
    return folder / f"{_shortened(type(network).__name__)}.logits-{'-'.join(digests)}.safetensors"


def mark_used(file: Path | None) -> None:
    """Note that a file of the user's cache folder is in use; see `remove_outdated`."""
    if file and file.parent.name == USER_FOLDER:
        with suppress(OSError):  # of a folder that cannot be written
            os.utime(file)


def remove_outdated(file: Path) -> None:
    """Remove caches that are not needed any more, after one was written.

    Beside a checkpoint these are caches of its earlier weights, and of earlier versions. In the user's cache folder,
    they are those not used for longest, while all take more than `MAX_USER_BYTES`.
    """
    if file.parent.name == USER_FOLDER:
        _remove_oldest(file.parent)
        return
    ours = CACHE_FILE.fullmatch(file.name)
    with suppress(OSError):
        for path in file.parent.iterdir():
            other = CACHE_FILE.fullmatch(path.name)
            if not (ours and other) or other["checkpoint"] != ours["checkpoint"]:
                continue
            if other.group("kind", "weights") != ours.group("kind", "weights"):
                path.unlink()


def _remove_oldest(folder: Path) -> None:
    with suppress(OSError):
        files = [(path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.safetensors")]
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files)[:-1]:
            if total <= MAX_USER_BYTES:
                return
            path.unlink(missing_ok=True)
            total -= size


def _shortened(name: str) -> str:
    """Replace the end of a file name that is too long by a digest of the whole name."""
    if len(os.fsencode(name)) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    while len(os.fsencode(name)) > MAX_NAME_BYTES - len(digest) - 1:
        name = name[:-1]
    return f"{name}-{digest}"
