"""Decode one image to uint8 pixels: which formats are read, and how large an image may be."""

import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

_NAMES = """
AVIF BLP BMP CUR DCX DDS DIB FITS FLI FTEX GBR GIF ICNS ICO JPEG JPEG2000 MPO MSP PCD PCX PIXAR PNG PPM PSD QOI SGI
SPIDER SUN TGA TIFF WEBP XBM XPM
"""

FORMATS = frozenset(_NAMES.split())
"""Pillow's names of the formats that are read: raster images that it decodes itself.

Excluded are formats for which Pillow starts another program (EPS, by Ghostscript) or calls the operating system (WMF,
EMF), and those that it recognises but cannot decode (MPEG, GRIB, HDF5, BUFR).
"""

MAX_PIXELS = 100_000_000
"""Largest image, 10,000 x 10,000, after a JPEG is reduced to a lower resolution."""

NESTED = frozenset({"BLP", "ICNS", "ICO"})
"""Formats that contain another image, whose size may differ from the declared one; they count as large images."""

LARGE_IMAGE = 2**24
"""Pixels above which a process decodes one image at a time; a decoded pixel takes 4 to 12 bytes."""

_one_large_image = threading.Lock()


class StoredImage(Protocol):
    """An image that is no file of its own, such as a row of a table."""

    def content(self) -> bytes:
        """Return the bytes of an image file."""

    def stamp(self) -> str:
        """Return what identifies the image without its content: another content has another stamp."""


ImageItem = Path | StoredImage
"""A file, or another image that can be decoded; its `str` names it in errors."""


def image_suffixes() -> frozenset[str]:
    """Return the file suffixes of `FORMATS`, in lower case with their dot."""
    readable = _readable()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in readable)


def open_image(file: ImageItem) -> Image.Image:
    """Open an image without decoding its pixels; its content, not its suffix, has to be one of `FORMATS`.

    Raises:
        Exception: the file is no such image; Pillow's plug-ins raise many kinds of errors.
    """
    if not isinstance(file, Path):
        return Image.open(BytesIO(file.content()), formats=_readable())
    if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe would block
        raise ValueError("no regular file")
    return Image.open(file, formats=_readable())


def check_size(image: Image.Image) -> int:
    """Return an upper bound of the pixels to decode.

    Raises:
        ValueError: more than `MAX_PIXELS`.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, at most {MAX_PIXELS:,} are read; make the image smaller")
    return MAX_PIXELS if image.format in NESTED else width * height


def decode_in_turn(pixels: int, decode: Callable[[], Image.Image]) -> Image.Image:
    """Decode an image; only one thread at a time decodes a large one, to bound memory.

    Args:
        pixels: size of the image.
        decode: decodes it.
    """
    if pixels <= LARGE_IMAGE:
        return decode()
    # A new thread, as the C library keeps freed memory for the thread that freed it.
    with _one_large_image, ThreadPoolExecutor(1) as one:
        return one.submit(decode).result()


def _readable() -> tuple[str, ...]:
    """Return those of `FORMATS` that the installed Pillow supports."""
    Image.init()
    return tuple(kind for kind in Image.ID if kind in FORMATS)


@dataclass(frozen=True)
class Decoder:
    """Decodes image files to one size and number of channels, rotated as their EXIF orientation says.

    Args:
        channels: 3 for colour, 1 for grey; other images are converted.
        size: height and width, in pixels.
        crop: whether to crop the longer side at both ends; otherwise images are stretched.
    """

    channels: int
    size: int
    crop: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every decoded image."""
        return self.channels, self.size, self.size

    @property
    def mode(self) -> str:
        """Pillow's mode of decoded images."""
        return "RGB" if self.channels == 3 else "L"

    def read(self, file: ImageItem) -> tuple[Tensor, str]:
        """Decode a file.

        Returns:
            uint8 (C, H, W), and Pillow's mode of the file (`RGB`, `L`, `RGBA`, `CMYK`, …).

        Raises:
            Exception: the file is damaged, or no image; Pillow's plug-ins raise many kinds of errors.
        """
        with open_image(file) as image:
            mode = image.mode
            if mode in ("I", "F") and image.format != "PNG":  # 16-bit PNGs have these modes too
                raise ValueError(f"32-bit pixels ({mode}), whose range is unknown; save them with 8 or 16 bits")
            image.draft(None, (2 * self.size, 2 * self.size))  # reduces large JPEGs
            sized = decode_in_turn(check_size(image), partial(self._sized, image))
        pixels = np.array(sized).reshape(self.size, self.size, self.channels)
        return torch.from_numpy(pixels).permute(2, 0, 1), mode

    def _sized(self, image: Image.Image) -> Image.Image:
        ImageOps.exif_transpose(image, in_place=True)
        image = _in_mode(image, self.mode)
        size, resample = (self.size, self.size), Image.Resampling.BILINEAR
        return ImageOps.fit(image, size, resample) if self.crop else image.resize(size, resample)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16"):  # Pillow would clip it at 255
        image = Image.fromarray(_eight_bits(np.arange(2**16))[np.asarray(image)])
    elif image.mode == "I":  # a 16-bit PNG in older versions of Pillow
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:  # transparent pixels have arbitrary colours: use white
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _eight_bits(levels: Any) -> Any:
    """Convert levels from 0..65535 to 0..255."""
    return (levels.astype(np.float64) * (255 / 65535)).astype(np.uint8)
