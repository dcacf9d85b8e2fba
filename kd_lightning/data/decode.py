"""Image files to uint8 pixels: one at a time, or all of them once, in parallel, into a memory-mapped cache."""

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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kd_lightning.data.copies import DIGEST_BYTES, digest_of
from kd_lightning.data.formats import check_size, decode_in_turn, open_image
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.atomic_write import temporary_folder
from kd_lightning.utils.progress import progress_bar

PIXELS_FILE, DIGESTS_FILE, REPORT_FILE = "images.bin", "digests.bin", "report.json"

KEY_LENGTH = 24
"""Hexadecimal digits that tell one cache from another."""

FORMAT = 4
"""Of the cache: raised when the same files would decode to other pixels, or a cache holds other files."""

CHUNK = 1024
"""Files whose images may wait to be written."""

BLOCK = 2**24
"""Bytes of a cache that are compared with its checksum at a time."""

CLOCK_TICK = 0.1
"""Seconds within which two changes of a file may have the same time."""

BUILDING = "decoded"
"""What temporary folders of caches are named after."""


@dataclass(frozen=True)
class Decoder:
    """How a file becomes an image: upright as its camera held it, of one size and one number of channels.

    Args:
        channels: 3 for colour, 1 for grey; images of another kind are converted.
        size: height and width, in pixels.
        crop: whether the longer side is cropped, evenly, to keep the proportions; else it is squeezed.
    """

    channels: int
    size: int
    crop: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.channels, self.size, self.size

    @property
    def mode(self) -> str:
        """Pillow's name of what images are converted to."""
        return "RGB" if self.channels == 3 else "L"

    def read(self, file: Path) -> tuple[Tensor, str]:
        """Decode a file.

        Returns:
            uint8 (C, H, W), and Pillow's name of what the file itself holds (`RGB`, `L`, `RGBA`, `CMYK`, …).

        Raises:
            Exception: the file is damaged, or no image; Pillow's plug-ins have their own ways of saying so.
        """
        with open_image(file) as image:
            held = image.mode
            if held in ("I", "F") and image.format != "PNG":  # of PNG, 16 bits have that name too
                raise ValueError(f"32-bit pixels ({held}), whose range is unknown; save them with 8 or 16 bits")
            image.draft(None, (2 * self.size, 2 * self.size))  # a JPEG far larger than that is decoded smaller
            sized = decode_in_turn(check_size(image), partial(self._sized, image))
        pixels = np.array(sized).reshape(self.size, self.size, self.channels)
        return torch.from_numpy(pixels).permute(2, 0, 1), held

    def _sized(self, image: Image.Image) -> Image.Image:
        ImageOps.exif_transpose(image, in_place=True)
        image = _in_mode(image, self.mode)
        size, resample = (self.size, self.size), Image.Resampling.BILINEAR
        return ImageOps.fit(image, size, resample) if self.crop else image.resize(size, resample)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16"):  # which Pillow would cut off at 255
        image = Image.fromarray(_eight_bits(np.arange(2**16))[np.asarray(image)])
    elif image.mode == "I":  # 16 bits of a PNG, as older versions of Pillow call them
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:  # what lies under full transparency is anything: show it on white
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _eight_bits(levels: Any) -> Any:
    """Levels from 0 to 65535 as levels from 0 to 255."""
    return (levels.astype(np.float64) * (255 / 65535)).astype(np.uint8)


@dataclass(frozen=True)
class Decoded:
    """Files, each looked at once.

    Attributes:
        image: uint8 (N, C, H, W), memory-mapped, of the files that could be read, in their order; None where they
            were only tried.
        unreadable: places of the other files, ascending, with what is wrong with each.
        converted: how many files held another kind of image than asked for, by Pillow's name of it.
        digests: uint8 (N, 16), of the pixels of each file that could be read, kept or only tried.
    """

    image: Tensor | None
    unreadable: dict[int, str]
    converted: dict[str, int]
    digests: np.ndarray[Any, np.dtype[np.uint8]]


def decode_all(files: Sequence[Path], decoder: Decoder, folder: Path, name: str, keep: bool = True) -> Decoded:
    """Decode files, or take what an earlier call left of the very same ones.

    A cache belongs to the files' names, sizes and times and to the decoder: another set of them is decoded anew,
    and takes the place of its predecessor. It is put in place whole, by a rename.

    Args:
        files: what to decode, in this order.
        decoder: how.
        folder: where caches are kept; made if need be.
        name: what the files are to their owner, as `train`: one cache is kept for each.
        keep: whether pixels are kept; else files are only tried.
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
        raise UserError(f"cache_dir: {target} went away while it was made; is another run using {folder}?")
    return found


def _key(files: Sequence[Path], decoder: Decoder) -> str:
    digest = hashlib.sha256(f"{FORMAT} {decoder}".encode())
    digest.update(stamps(files).encode())
    # A file that was mended by a change of its permissions alone has a new time of change.
    digest.update("".join(f"{status.st_ctime_ns} " for file in files if (status := _status(file))).encode())
    return digest.hexdigest()[:KEY_LENGTH]


def stamps(files: Sequence[Path]) -> str:
    """A digest of the files' names, sizes and times of modification."""
    digest = hashlib.sha256()
    for file in files:
        status = _status(file)
        digest.update(os.fsencode(file.absolute()))
        digest.update(f"\0{status.st_size} {status.st_mtime_ns}\n".encode() if status else b"\0gone\n")
    return digest.hexdigest()


def _status(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except OSError:  # decoding will say what is wrong with it
        return None


def _load(target: Path, files: int, decoder: Decoder, keep: bool) -> Decoded | None:
    """Read a cache; None where there is none, or where it is damaged."""
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
            # Copy-on-write: torch wants memory that it may write to; the file stays as it is.
            image = torch.from_numpy(np.memmap(target / PIXELS_FILE, np.uint8, "c", shape=shape))
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return Decoded(image, unreadable, report["converted"], digests)


_intact: set[tuple[object, ...]] = set()
"""Files whose checksum this process has compared already, each with its state at that time."""


def _is_intact(file: Path, size: int, sha256: str) -> bool:
    """Compare a file of a cache with its size and checksum, the checksum once in a process while the file stays."""
    status = file.stat()
    if status.st_size != size:
        return False
    state = (file, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, sha256)
    if state in _intact:
        return True
    if _digest_of_file(file) != sha256:
        return False
    # A file that was changed just now could be changed again without another time.
    if time.time() - status.st_mtime > CLOCK_TICK:
        _intact.add(state)
    return True


def _digest_of(report: dict[str, Any], target: Path) -> str:
    """Of a report and of what it is about, which its folder's name tells."""
    return hashlib.sha256(json.dumps([target.name, report], sort_keys=True).encode()).hexdigest()


def _digest_of_file(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        blocks = iter(lambda: content.read(BLOCK), b"")
        count = math.ceil(file.stat().st_size / BLOCK)
        for block in progress_bar(blocks, "checking the cache", count):
            digest.update(block)
    return digest.hexdigest()


def _build(files: Sequence[Path], decoder: Decoder, target: Path, keep: bool, name: str) -> None:
    with ExitStack() as stack:
        try:
            draft = stack.enter_context(temporary_folder(target.parent, BUILDING))
        except OSError as error:
            raise UserError(
                f"cache_dir: cannot write to {target.parent} ({one_line(error)}); name another with --data.cache_dir"
            ) from error
        try:
            report = _decode_into(draft, files, decoder, keep, name)
            (draft / REPORT_FILE).write_text(json.dumps({"report": report, "sha256": _digest_of(report, target)}))
            draft.chmod(0o755)  # for others too, as the images are
            try:
                draft.rename(target)
            except OSError:
                if not target.is_dir():  # else somebody was faster, with the same files
                    raise
        except OSError as error:
            raise UserError(
                f"cache_dir: cannot keep the decoded images in {target.parent} ({one_line(error)}); name a folder with "
                "more room with --data.cache_dir, or stream the files with --data.cache_limit 0"
            ) from error


def _decode_into(draft: Path, files: Sequence[Path], decoder: Decoder, keep: bool, name: str) -> dict[str, Any]:
    def decode(file: Path) -> tuple[Tensor | None, str]:
        """The image with what kind it was, or nothing with what is wrong."""
        try:
            return decoder.read(file)
        except Exception as error:
            return None, one_line(error)

    unreadable: dict[int, str] = {}
    modes: Counter[str] = Counter()
    digest = hashlib.sha256()
    each = bytearray()
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    # Pillow decodes and resizes without holding the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool, (draft / PIXELS_FILE).open("wb") as pixels:
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
    (draft / DIGESTS_FILE).write_bytes(each)
    words = {str(place): word for place, word in unreadable.items()}  # as JSON has keys
    checksums = {"pixels": digest.hexdigest(), "digests": hashlib.sha256(each).hexdigest()}
    return {"unreadable": words, "converted": converted, **checksums}
