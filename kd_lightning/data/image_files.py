"""Find image files in folders named after their classes, and split them."""

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd_lightning.data.decode import image_suffixes
from kd_lightning.data.splits import stratified_order
from kd_lightning.errors import UserError, one_line

log = logging.getLogger(__name__)

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folders of a tree that is already split, and their parts."""

WHOLE = "all"
"""Name of the only part of a tree that is not split."""

MISTAKEN = {*PARTS, "training", "testing"}
"""Names, in lower case, that are hardly those of classes."""

LEAVE_OUT = "--data.leave_out_classes"
"""Option that leaves classes out by name."""

MAX_NAMED = 3
"""Files or suffixes that a line names; it counts the others."""

Labelled = list[tuple[Any, int]]
"""Image files, or positions of arrays, with the numbers of their classes."""


class ImageFiles(NamedTuple):
    """Image files with labels, int64 (N,), and whether they are held out for validation, bool (N,)."""

    paths: list[Any]
    label: Tensor
    val: Tensor

    def at(self, places: Tensor) -> "ImageFiles":
        """Return the files at `places`, int64 (M,), in that order."""
        return ImageFiles([self.paths[place] for place in places.tolist()], self.label[places], self.val[places])


def find_classes(root: Path, leave_out: Sequence[str] = ()) -> list[str]:
    """Return the names of the class folders in order, without those in `leave_out`.

    Raises:
        UserError: no such folder, fewer than two classes, a folder such as `Train/` or `val/` among the classes, or an
            unknown class in `leave_out`.
    """
    folder = root / "train" if (root / "train").is_dir() else root
    names = sorted(_folders_in(folder))
    if mistaken := sorted(name for name in names if name.lower() in MISTAKEN):
        raise UserError(
            f"root: {', '.join(mistaken)} found among the class folders in {folder}; a tree that is split has "
            "train/ and, beside it, val/ or test/"
        )
    known = {name for part in _parts_of(root).values() for name in _folders_in(part)}
    if unknown := sorted({*leave_out} - {readable(name) for name in known}):
        raise UserError(f"leave_out_classes: {', '.join(unknown)} found, names of class folders in {folder} expected")
    names = [name for name in names if readable(name) not in leave_out]
    if len(names) < 2:
        found = f"{len(names)} class folders found" if len(names) != 1 else f"one class found ({readable(names[0])})"
        left = f", {len(leave_out)} left out" if leave_out else ""
        raise UserError(f"root: {found} in {folder}{left}, at least 2 expected")
    return names


def readable(name: str) -> str:
    """Return a folder's name as valid text, with escapes for bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def find_files(root: Path, class_names: Sequence[str], leave_out: Sequence[str] = ()) -> dict[str, Labelled]:
    """List the image files by part (`train`, `val`, `test`), or as one part (`WHOLE`).

    Args:
        root: folder of `train/` and other parts, or of the class folders.
        class_names: names of the class folders, in the order of their numbers.
        leave_out: names of class folders to skip.

    Raises:
        UserError: two validation folders, a class that `train/` lacks, or a class without images.
    """
    folders = _parts_of(root)
    if folders.keys() == {WHOLE}:
        return {WHOLE: _files_in(root, class_names)}
    if len(folders) > len({PARTS[folder] for folder in folders}):
        twice = " and ".join(f"{folder}/" for folder in folders if PARTS[folder] == "val")
        raise UserError(f"root: {twice} found in {root}, one folder for validation expected")
    for folder in folders.values():
        names = {name for name in _folders_in(folder) if readable(name) not in leave_out}
        if unknown := sorted(names - set(class_names)):
            raise UserError(f"root: {folder} has classes that {root / 'train'} lacks: {', '.join(unknown)}")
    return {PARTS[name]: _files_in(folder, class_names) for name, folder in folders.items()}


def _parts_of(root: Path) -> dict[str, Path]:
    """Return the folders of a split tree by name, or the tree itself as `WHOLE`."""
    if not (root / "train").is_dir():
        return {WHOLE: root}
    return {name: root / name for name in PARTS if (root / name).is_dir()}


def how_to_leave_out(names: Sequence[str]) -> str:
    """Return the command-line option that leaves classes out."""
    return f"{LEAVE_OUT} '{json.dumps(list(names), ensure_ascii=False)}'"


def _folders_in(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise UserError(f"root: no folder {folder}; name the one above the class folders with --data.root")
    return {child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")}


def _files_in(folder: Path, class_names: Sequence[str]) -> Labelled:
    names = _folders_in(folder)
    found: Labelled = []
    others: list[Path] = []
    loops: list[Path] = []
    for number, name in enumerate(class_names):
        if name not in names:
            continue
        listing = list_images(folder / name, "root")
        if not listing.images:
            raise UserError(
                f"root: the class folder {folder / name} holds no image; fill it, or leave the class out: "
                f"{how_to_leave_out([readable(name)])}"
            )
        found += [(file, number) for file in listing.images]
        others += listing.others
        loops += listing.loops
    for line in describe_ignored(folder, others, loops):
        log.warning(line)
    return found


def split_files(found: Mapping[str, Labelled], fractions: Sequence[float], seed: int) -> dict[bool, ImageFiles]:
    """Return the training and validation files (key True) and the test files (key False).

    Each part is in a random order in which every prefix has the class proportions of the part.

    Args:
        found: files by part, as returned by `find_files`.
        fractions: training, validation and test fractions of a tree that is not split; they add up to 1.
        seed: of order and split.
    """
    if WHOLE not in found:
        train, val = (_in_order(found.get(part, []), seed) for part in ("train", "val"))
        both = ImageFiles(
            val.paths + train.paths,
            torch.cat([val.label, train.label]),
            torch.arange(len(val.paths) + len(train.paths)) < len(val.paths),
        )
        return {True: both, False: _in_order(found.get("test", []), seed)}
    every = _in_order(found[WHOLE], seed)
    _, val_count, test_count = (round(part * len(every.paths)) for part in fractions)
    places = torch.arange(len(every.paths))
    every.val[test_count : test_count + val_count] = True
    return {True: every.at(places[test_count:]), False: every.at(places[:test_count])}


def _in_order(pairs: Labelled, seed: int) -> ImageFiles:
    label = torch.tensor([number for _, number in pairs], dtype=torch.int64)
    files = ImageFiles([path for path, _ in pairs], label, torch.zeros(len(pairs), dtype=torch.bool))
    return files.at(stratified_order(label, torch.Generator().manual_seed(seed)))


class Listing(NamedTuple):
    """The files below a folder, sorted.

    Attributes:
        images: files with the suffix of an image format.
        others: other files.
        loops: links to a folder above them, which are not followed.
    """

    images: list[Path]
    others: list[Path]
    loops: list[Path]


def list_images(folder: Path, option: str) -> Listing:
    """List the files below a folder; links to folders are followed, hidden files and folders skipped.

    Args:
        folder: the folder.
        option: the option that named it, for errors.

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


def describe_ignored(folder: Path, others: Sequence[Path], loops: Sequence[Path], named: bool = False) -> list[str]:
    """Return a line about files that are not images by their suffix, and one about links that are not followed.

    Args:
        folder: the folder above them.
        others: see `Listing`.
        loops: see `Listing`.
        named: whether to name files, beside their suffixes.
    """
    lines = []
    if others:
        counts = Counter(file.suffix.lower() or "none" for file in others).most_common(MAX_NAMED)
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts)
        files = f" ({_named(others)})" if named else ""
        lines.append(f"{folder}: {len(others)} files left out, whose suffix is not an image's: {kinds}{files}")
    if loops:
        lines.append(f"{folder}: {len(loops)} links not followed, which lead to a folder above them: {_named(loops)}")
    return lines


def _named(files: Sequence[Path]) -> str:
    more = len(files) - MAX_NAMED
    return ", ".join(map(str, files[:MAX_NAMED])) + (f" and {more} more" if more > 0 else "")
