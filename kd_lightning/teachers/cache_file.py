"""Name the file of a logit cache beside the teacher's checkpoint, and remove outdated ones."""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from kd_lightning.checkpoints.file import digest_of

MAX_NAME_BYTES = 140
"""Part of a checkpoint's name that its cache's name repeats. File systems allow 255 bytes for the whole name; the cache
adds 53, and its lock file and temporary file have longer names still."""

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


def remove_outdated(file: Path) -> None:
    """Remove caches of a checkpoint's earlier weights, and those of earlier versions."""
    ours = CACHE_FILE.fullmatch(file.name)
    with suppress(OSError):
        for path in file.parent.iterdir():
            other = CACHE_FILE.fullmatch(path.name)
            if not (ours and other) or other["checkpoint"] != ours["checkpoint"]:
                continue
            if other.group("kind", "weights") != ours.group("kind", "weights"):
                path.unlink()


def _shortened(name: str) -> str:
    """Replace the end of a file name that is too long by a digest of the whole name."""
    if len(os.fsencode(name)) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    while len(os.fsencode(name)) > MAX_NAME_BYTES - len(digest) - 1:
        name = name[:-1]
    return f"{name}-{digest}"
