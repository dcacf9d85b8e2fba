"""Image files in folders named after their classes: which there are, of which class, and for what."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kd_lightning.data.listing import left_out, list_images
from kd_lightning.data.sets import stratified_order
from kd_lightning.errors import UserError

log = logging.getLogger(__name__)

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folders of a tree that is split already."""

WHOLE = "all"
"""The one part of a tree that is not."""

MISTAKEN = {*PARTS, "training", "testing"}
"""Names, in lower case, of which a class is not likely to have one."""

LEAVE_OUT = "--data.leave_out_classes"
"""The option that leaves classes out by name."""

Labelled = list[tuple[Path, int]]
"""Image files, each with the number of its class."""


class ImageFiles(NamedTuple):
    """Image files, the class of each, and whether it is for validation; int64 and bool (N,)."""

    paths: list[Path]
    label: Tensor
    val: Tensor

    def at(self, places: Tensor) -> "ImageFiles":
        """Those at some places, int64 (M,), in that order."""
        return ImageFiles([self.paths[place] for place in places.tolist()], self.label[places], self.val[places])


def find_classes(root: Path, leave_out: Sequence[str] = ()) -> list[str]:
    """The names of the class folders, in order, without those that are left out.

    Raises:
        UserError: no such folder, fewer than two classes, a part of a tree (`Train/`, `val/`) among them, or a class to
            leave out that is not there.
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
    """A folder's name as text that can be drawn and written: of bytes that are not UTF-8, their numbers."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def find_files(root: Path, class_names: Sequence[str], leave_out: Sequence[str] = ()) -> dict[str, Labelled]:
    """List the image files by part (`train`, `val`, `test`), or as one (`WHOLE`).

    Args:
        root: folder with `train/` and its like, or with the class folders themselves.
        class_names: the class folders' names, in the order of their numbers.
        leave_out: names of class folders to pass over.

    Raises:
        UserError: two folders for validation, a class that `train/` lacks, or one without an image.
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
    """The folders of a tree that is split, by their names; else the tree itself, as `WHOLE`."""
    if not (root / "train").is_dir():
        return {WHOLE: root}
    return {name: root / name for name in PARTS if (root / name).is_dir()}


def how_to_leave_out(names: Sequence[str]) -> str:
    """The option, as on a command line, that leaves classes out."""
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
    for line in left_out(folder, others, loops):
        log.warning(line)
    return found


def split_files(found: Mapping[str, Labelled], fractions: Sequence[float], seed: int) -> dict[bool, ImageFiles]:
    """The files of the training set, those for validation among them (True), and of the test set (False).

    Each part is put in a random order of which every beginning holds the classes in proportion.

    Args:
        found: the files by part, or as one.
        fractions: of one tree, what is for training, validation and test; they add up to 1.
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
