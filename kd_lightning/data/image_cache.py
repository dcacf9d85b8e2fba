"""Decode all image files once, in parallel, into a memory-mapped cache of uint8 pixels."""

import hashlib
import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_lightning.data.copies import DIGEST_BYTES, digest_of
from kd_lightning.data.decode import Decoder, ImageItem
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.atomic_write import temporary_folder
from kd_lightning.utils.progress import progress_bar

PIXELS_FILE, DIGESTS_FILE, REPORT_FILE = "images.bin", "digests.bin", "report.json"

KEY_LENGTH = 24
"""Hexadecimal digits of a cache's key."""

FORMAT = 4
"""Version of the cache; raise it when the same files decode to other pixels, or the cache's files change."""

CHUNK_FILES = 1024
"""Decoded images that may wait to be written."""

BLOCK_BYTES = 2**24
"""Bytes read at a time to verify a checksum."""

CLOCK_TICK = 0.1
"""Seconds within which two changes of a file may get the same timestamp."""

BUILDING = "decoded"
"""Name in the temporary folders of caches."""


@dataclass(frozen=True)
class Decoded:
    """Result of decoding files.

    Attributes:
        image: uint8 (N, C, H, W), memory-mapped, of the readable files in order; None if pixels were not kept.
        unreadable: position of each unreadable file, ascending, with the problem.
        converted: number of files by Pillow's mode, of those converted from another mode.
        digests: uint8 (N, 16), digests of the readable files' pixels.
    """

    image: Tensor | None
    unreadable: dict[int, str]
    converted: dict[str, int]
    digests: np.ndarray[Any, np.dtype[np.uint8]]


def decode_all(files: Sequence[ImageItem], decoder: Decoder, folder: Path, name: str, keep: bool = True) -> Decoded:
    """Decode files, or load the cache that an earlier call made of the same files.

    A cache is identified by the files' names, sizes and times and by the decoder. A new cache replaces the previous one
    of the same name, atomically.

    Args:
        files: files in order.
        decoder: decodes each file.
        folder: folder of caches, created if it does not exist.
        name: such as `train`; one cache is kept for each name.
        keep: whether to keep pixels; otherwise files are decoded once to find unreadable ones.
    """
    label = f"{name}-{decoder.mode}-{decoder.size}px{'-crop' if decoder.crop else ''}{'' if keep else '-tried'}"
    target = folder / f"{label}-{_key(files, decoder)}"
    found = _load(target, len(files), decoder, keep)
    if found is None:
        shutil.rmtree(target, ignore_errors=True)
        _build(files, decoder, target, keep, name)
        for stale in set(folder.glob(f"{label}-{'[0-9a-f]' * KEY_LENGTH}")) - {target}:
            shutil.rmtree(stale, ignore_errors=True)
        found = _load(target, len(files), decoder, keep)
    if found is None:
        raise UserError(f"cache_dir: {target} was removed while it was written; is another run using {folder}?")
    return found


def _key(files: Sequence[ImageItem], decoder: Decoder) -> str:
    digest = hashlib.sha256(f"{FORMAT} {decoder}".encode())
    digest.update(stamps(files).encode())
    # A file whose permissions alone were repaired has a new time of change.
    digest.update("".join(f"{status.st_ctime_ns} " for file in files if (status := _status(file))).encode())
    return digest.hexdigest()[:KEY_LENGTH]


def stamps(files: Sequence[ImageItem]) -> str:
    """Return a digest of the files' names, sizes and times of modification."""
    digest = hashlib.sha256()
    for file in files:
        if not isinstance(file, Path):
            digest.update(f"{file.stamp()}\n".encode())
            continue
        status = _status(file)
        digest.update(os.fsencode(file.absolute()))
        digest.update(f"\0{status.st_size} {status.st_mtime_ns}\n".encode() if status else b"\0gone\n")
    return digest.hexdigest()


def _status(file: ImageItem) -> os.stat_result | None:
    if not isinstance(file, Path):
        return None
    try:
        return file.stat()
    except OSError:  # decoding reports the problem
        return None


def _load(target: Path, files: int, decoder: Decoder, keep: bool) -> Decoded | None:
    """Load a cache; None if there is none or it is damaged."""
    try:
        kept = json.loads((target / REPORT_FILE).read_text())
        report = kept["report"]
        if kept["sha256"] != _digest_of(report, target):
            return None
        unreadable = {int(place): problem for place, problem in report["unreadable"].items()}
        shape = (files - len(unreadable), *decoder.shape)
        if not _is_intact(target / DIGESTS_FILE, shape[0] * DIGEST_BYTES, report["digests"]):
            return None
        digests = np.fromfile(target / DIGESTS_FILE, np.uint8).reshape(-1, DIGEST_BYTES)
        if not keep or not shape[0]:
            image = torch.empty(shape, dtype=torch.uint8) if keep else None
        elif not _is_intact(target / PIXELS_FILE, math.prod(shape), report["pixels"]):
            return None
        else:
            # Copy-on-write, as torch requires writable memory; the file does not change.
            image = torch.from_numpy(np.memmap(target / PIXELS_FILE, np.uint8, "c", shape=shape))
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return Decoded(image, unreadable, report["converted"], digests)


_intact: set[tuple[object, ...]] = set()
"""Files whose checksum this process has verified, with their state at that time."""


def _is_intact(file: Path, size: int, sha256: str) -> bool:
    """Verify size and checksum of a cache's file; the checksum once per process while the file does not change."""
    status = file.stat()
    if status.st_size != size:
        return False
    state = (file, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, sha256)
    if state in _intact:
        return True
    if _digest_of_file(file) != sha256:
        return False
    # A file that has just changed could change again within the same timestamp.
    if time.time() - status.st_mtime > CLOCK_TICK:
        _intact.add(state)
    return True


def _digest_of(report: dict[str, Any], target: Path) -> str:
    """Return the digest of a report and the name of its cache."""
    return hashlib.sha256(json.dumps([target.name, report], sort_keys=True).encode()).hexdigest()


def _digest_of_file(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        blocks = iter(lambda: content.read(BLOCK_BYTES), b"")
        count = math.ceil(file.stat().st_size / BLOCK_BYTES)
        for block in progress_bar(blocks, "checking the cache", count):
            digest.update(block)
    return digest.hexdigest()


def _build(files: Sequence[ImageItem], decoder: Decoder, target: Path, keep: bool, name: str) -> None:
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(temporary_folder(target.parent, BUILDING))
        except OSError as error:
            raise UserError(
                f"cache_dir: cannot write to {target.parent} ({one_line(error)}); name another with --data.cache_dir"
            ) from error
        try:
            report = _decode_into(temporary, files, decoder, keep, name)
            (temporary / REPORT_FILE).write_text(json.dumps({"report": report, "sha256": _digest_of(report, target)}))
            temporary.chmod(0o755)  # readable by other users, as the images are
            try:
                temporary.rename(target)
            except OSError:
                if not target.is_dir():  # another process was faster with the same files
                    raise
        except OSError as error:
            raise UserError(
                f"cache_dir: cannot write decoded images to {target.parent} ({one_line(error)}); name a folder with "
                "more room with --data.cache_dir, or stream the files with --data.cache_limit 0"
            ) from error


def _decode_into(
    temporary: Path, files: Sequence[ImageItem], decoder: Decoder, keep: bool, name: str
) -> dict[str, Any]:
    def decode(file: Path) -> tuple[Tensor | None, str]:
        """Return the image and its mode, or None and the problem."""
        try:
            return decoder.read(file)
        except Exception as error:
            return None, one_line(error)

    unreadable: dict[int, str] = {}
    modes: Counter[str] = Counter()
    digest = hashlib.sha256()
    each = bytearray()
    chunks = [files[start : start + CHUNK_FILES] for start in range(0, len(files), CHUNK_FILES)]
    # Pillow releases the interpreter's lock while it decodes and resizes.
    with ThreadPoolExecutor(os.cpu_count()) as pool, (temporary / PIXELS_FILE).open("wb") as pixels:
        outcomes = (outcome for chunk in chunks for outcome in pool.map(decode, chunk))
        shown = progress_bar(outcomes, f"decoding {name}", len(files))
        for place, (image, word) in enumerate(shown):
            if image is None:
                unreadable[place] = word
                continue
            modes[word] += 1
            content = image.numpy().tobytes()
            each += digest_of(content)
            if keep:
                pixels.write(content)
                digest.update(content)
        pixels.flush()
        os.fsync(pixels.fileno())
    converted = {mode: n for mode, n in modes.items() if mode != decoder.mode}
    (temporary / DIGESTS_FILE).write_bytes(each)
    words = {str(place): word for place, word in unreadable.items()}  # as JSON has keys
    checksums = {"pixels": digest.hexdigest(), "digests": hashlib.sha256(each).hexdigest()}
    return {"unreadable": words, "converted": converted, **checksums}
