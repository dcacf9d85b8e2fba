"""Image files below a folder, as torchvision's `ImageFolder` finds them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kd_lightning.data.formats import image_suffixes
from kd_lightning.errors import UserError, one_line

NAMED = 3
"""Files, or kinds of them, that a line names; the others it counts."""


class Listing(NamedTuple):
    """The files below a folder, each kind in order.

    Attributes:
        images: files whose suffix is an image's.
        others: files with another suffix, or none.
        loops: links that lead back to a folder above them, and are not followed.
    """

    images: list[Path]
    others: list[Path]
    loops: list[Path]


def list_images(folder: Path, option: str) -> Listing:
    """List the files below a folder; links to folders are followed, and names that begin with a dot left out.

    Args:
        folder: where to look.
        option: what the user named the folder with, for errors.

    Raises:
        UserError: a folder cannot be listed.
    """
    suffixes = image_suffixes()
    found = Listing([], [], [])
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while waiting:
        current, above = waiting.pop()
        try:
            status = current.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                found.loops.append(current)
                continue
            inside = [(path, path.is_dir()) for path in current.iterdir() if not path.name.startswith(".")]
        except OSError as error:
            raise UserError(f"{option}: {current} cannot be listed ({one_line(error)})") from error
        for path, is_folder in inside:
            if is_folder:
                waiting.append((path, above | {identity}))
            else:
                (found.images if path.suffix.lower() in suffixes else found.others).append(path)
    return Listing(*(sorted(part) for part in found))


def left_out(folder: Path, others: Sequence[Path], loops: Sequence[Path], named: bool = False) -> list[str]:
    """Say in a line each which files are no images by their suffix, and which links are not followed.

    Args:
        folder: below which they were found.
        others: see `Listing`.
        loops: see `Listing`.
        named: whether files are named, beside their kinds.
    """
    lines = []
    if others:
        counts = Counter(file.suffix.lower() or "none" for file in others).most_common(NAMED)
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts)
        files = f" ({_named(others)})" if named else ""
        lines.append(f"{folder}: {len(others)} files left out, whose suffix is not an image's: {kinds}{files}")
    if loops:
        lines.append(f"{folder}: {len(loops)} links not followed, which lead to a folder above them: {_named(loops)}")
    return lines


def _named(files: Sequence[Path]) -> str:
    more = len(files) - NAMED
    return ", ".join(map(str, files[:NAMED])) + (f" and {more} more" if more > 0 else "")
