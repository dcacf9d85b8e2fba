"""Which image files are opened, and how many of their pixels are decoded at a time."""

import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

_NAMES = """
AVIF BLP BMP CUR DCX DDS DIB FITS FLI FTEX GBR GIF ICNS ICO JPEG JPEG2000 MPO MSP PCD PCX PIXAR PNG PPM PSD QOI SGI
SPIDER SUN TGA TIFF WEBP XBM XPM
"""

FORMATS = frozenset(_NAMES.split())
"""Pillow's names of the formats that are read: rasters that it decodes itself.

Left out are those for which it starts another program (EPS, by Ghostscript) or needs an operating system's help (WMF,
EMF), and those that it recognises, but cannot decode (MPEG, GRIB, HDF5, BUFR).
"""

MOST_PIXELS = 100_000_000
"""Pixels that are decoded of one image, at most: 10,000 x 10,000. JPEGs are decoded at a lower resolution first."""

NESTED = frozenset({"BLP", "ICNS", "ICO"})
"""Formats that hold another image, whose size may not be the one that they give; each counts as a large image."""

LARGE_IMAGE = 2**24
"""Pixels above which a process decodes one image at a time; a decoded pixel takes 4 to 12 bytes."""

_one_large_image = threading.Lock()


def image_suffixes() -> frozenset[str]:
    """The endings of file names, in lower case with their dot, of the formats that are read."""
    readable = _readable()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in readable)


def open_image(file: Path) -> Image.Image:
    """Open an image file of one of `FORMATS`, whatever its suffix says, without decoding its pixels.

    Raises:
        Exception: the file is no such image, or none at all; Pillow's plug-ins raise errors of many kinds.
    """
    if not stat.S_ISREG(file.stat().st_mode):  # a pipe would be waited for
        raise ValueError("no regular file")
    return Image.open(file, formats=_readable())


def check_size(image: Image.Image) -> int:
    """Count the pixels that are about to be decoded, at least.

    Raises:
        ValueError: they are more than `MOST_PIXELS`.
    """
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels, at most {MOST_PIXELS:,} are read; make the image smaller")
    return MOST_PIXELS if image.format in NESTED else width * height


def decode_in_turn(pixels: int, decode: Callable[[], Image.Image]) -> Image.Image:
    """Decode an image, a large one when no other thread decodes another: else each core would take memory for one.

    Args:
        pixels: how many it has.
        decode: what decodes it.
    """
    if pixels <= LARGE_IMAGE:
        return decode()
    # In a new thread, since the C library keeps memory that a thread has freed for that thread.
    with _one_large_image, ThreadPoolExecutor(1) as one:
        return one.submit(decode).result()


def _readable() -> tuple[str, ...]:
    """Those of `FORMATS` that this installation of Pillow has."""
    Image.init()
    return tuple(kind for kind in Image.ID if kind in FORMATS)
