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

from kd_lightning.batch import UNLABELLED
from kd_lightning.data.decode import image_suffixes
from kd_lightning.data.splits import stratified_order
from kd_lightning.errors import UserError, one_line

log = logging.getLogger(__name__)

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folders of a tree that is already split, and their parts."""

WHOLE = "all"
"""Name of the only part of a tree that is not split."""

WITHOUT_LABELS = "unlabelled"
"""Name of the part of images without class, which belong to training."""

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


def find_classes(roots: Sequence[Path], leave_out: Sequence[str] = (), skip: Sequence[Path] = ()) -> list[str]:
    """Return the names of the class folders in order, without those in `leave_out`.

    They are those of training; of trees without training images, such as `test/` beside unlabelled images, those of
    the other parts.

    Args:
        roots: folders of `train/` and other parts, or of the class folders.
        leave_out: names to leave out.
        skip: folders that are no classes.

    Raises:
        UserError: no such folder, fewer than two classes, a folder such as `Train/` or `val/` among the classes of
            training alone, or an unknown class in `leave_out`.
    """
    trees = [_parts_of(root, skip) for root in roots]
    if len({WHOLE in tree for tree in trees}) > 1:
        kinds = {WHOLE in tree: root for root, tree in zip(roots, trees, strict=True)}
        raise UserError(
            f"root: {kinds[False]} is split into train/ and others, {kinds[True]} is not; all of one kind expected"
        )
    folders = [path for tree in trees for path in tree.values()]
    training = [path for tree in trees for name, path in tree.items() if name in ("train", WHOLE)] or folders
    names = sorted({name for folder in training for name in _folders_in(folder, skip)})
    shown = " and ".join(map(str, training))
    elsewhere = {name for path in folders if path not in training for name in _folders_in(path, skip)}
    if mistaken := sorted(name for name in {*names} - elsewhere if name.lower() in MISTAKEN):  # CIFAR-100 has a `train`
        raise UserError(
            f"root: {', '.join(mistaken)} found among the class folders in {shown}; a tree that is split has "
            "train/ and, beside it, val/ or test/"
        )
    if unknown := sorted({*leave_out} - {readable(name) for name in class_folders(roots, skip)}):
        raise UserError(f"leave_out_classes: {', '.join(unknown)} found, names of class folders in {shown} expected")
    names = [name for name in names if readable(name) not in leave_out]
    if len(names) < 2:
        found = f"{len(names)} class folders found" if len(names) != 1 else f"one class found ({readable(names[0])})"
        left = f", {len(leave_out)} left out" if leave_out else ""
        raise UserError(f"root: {found} in {shown}{left}, at least 2 expected")
    return names


def class_folders(roots: Sequence[Path], skip: Sequence[Path] = ()) -> set[str]:
    """Return the names of the class folders of all parts, without `skip`."""
    folders = [folder for root in roots for folder in _parts_of(root, skip).values()]
    return {name for folder in folders for name in _folders_in(folder, skip)}


def readable(name: str) -> str:
    """Return a folder's name as valid text, with escapes for bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def find_files(
    roots: Sequence[Path], class_names: Sequence[str], leave_out: Sequence[str] = (), skip: Sequence[Path] = ()
) -> dict[str, Labelled]:
    """List the image files by part (`train`, `val`, `test`), or as one part (`WHOLE`).

    Args:
        roots: folders of `train/` and other parts, or of the class folders; their files are put together.
        class_names: names of the class folders, in the order of their numbers.
        leave_out: names of class folders to skip.
        skip: folders that are no classes.

    Raises:
        UserError: two validation folders, a class that `train/` lacks, or a class without images.
    """
    found: dict[str, Labelled] = {}
    for root in roots:
        folders = _parts_of(root, skip)
        if len(folders) > len({PARTS.get(folder) for folder in folders}):
            twice = " and ".join(f"{folder}/" for folder in folders if PARTS[folder] == "val")
            raise UserError(f"root: {twice} found in {root}, one folder for validation expected")
        for name, folder in folders.items():
            names = {each for each in _folders_in(folder, skip) if readable(each) not in leave_out}
            if unknown := sorted(names - set(class_names)):
                raise UserError(f"root: {folder} has classes that {root / 'train'} lacks: {', '.join(unknown)}")
            found.setdefault(PARTS.get(name, WHOLE), []).extend(_files_in(folder, class_names))
    return found


def find_unlabelled(folders: Sequence[Path]) -> Labelled:
    """List all images below folders, with `UNLABELLED` in place of a class number.

    Raises:
        UserError: a folder cannot be listed, or holds no image.
    """
    found: Labelled = []
    for folder in folders:
        listing = list_images(folder, "unlabelled")
        if not listing.images:
            raise UserError(f"unlabelled: no image found below {folder}, at least 1 expected")
        found += [(file, UNLABELLED) for file in listing.images]
        for line in describe_ignored(folder, listing.others, listing.loops):
            log.warning(line)
    return found


def _parts_of(root: Path, skip: Sequence[Path]) -> dict[str, Path]:
    """Return the folders of a split tree by name, or the tree itself as `WHOLE`."""
    names = _folders_in(root, skip)
    if "train" not in names and not (names and names <= PARTS.keys()):
        return {WHOLE: root}
    return {name: root / name for name in PARTS if name in names}


def how_to_leave_out(names: Sequence[str]) -> str:
    """Return the command-line option that leaves classes out."""
    return f"{LEAVE_OUT} '{json.dumps(list(names), ensure_ascii=False)}'"


def _folders_in(folder: Path, skip: Sequence[Path] = ()) -> set[str]:
    if not folder.is_dir():
        raise UserError(f"root: no folder {folder}; name the one above the class folders with --data.root")
    found = {child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")}
    left_out = {path.resolve() for path in skip}
    return {name for name in found if not left_out or (folder / name).resolve() not in left_out}


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
        found: files by part, as returned by `find_files`; unlabelled ones belong to training.
        fractions: training, validation and test fractions of a tree that is not split; they add up to 1.
        seed: of order and split.
    """
    unlabelled = found.get(WITHOUT_LABELS, [])
    if WHOLE in found:
        every = _in_order(found[WHOLE], seed)
        _, val_count, test_count = (round(part * len(every.paths)) for part in fractions)
        test, val, train = (
            every.at(places)
            for places in torch.arange(len(every.paths)).tensor_split((test_count, test_count + val_count))
        )
        if unlabelled:
            train = _in_order([*zip(train.paths, train.label.tolist(), strict=True), *unlabelled], seed)
    else:
        train = _in_order([*found.get("train", []), *unlabelled], seed)
        val, test = (_in_order(found.get(part, []), seed) for part in ("val", "test"))
    both = ImageFiles(
        val.paths + train.paths,
        torch.cat([val.label, train.label]),
        torch.arange(len(val.paths) + len(train.paths)) < len(val.paths),
    )
    return {True: both, False: test}


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
