"""Image files in folders named after their classes: which there are, of which class, and for what."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kd_lightning.data.decode import image_suffixes
from kd_lightning.data.sets import stratified_order
from kd_lightning.errors import UserError

log = logging.getLogger(__name__)

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folders of a tree that is split already."""

WHOLE = "all"
"""The one part of a tree that is not."""

MISTAKEN = {*PARTS, "training", "testing"}
"""Names, in lower case, of which a class is not likely to have one."""

NAMED_SUFFIXES = 3
"""Kinds of other files that a warning names."""

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


def find_classes(root: Path) -> list[str]:
    """The names of the class folders, in order.

    Raises:
        UserError: no such folder, fewer than two classes, or a part of a tree (`Train/`, `val/`) among them.
    """
    folder = root / "train" if (root / "train").is_dir() else root
    names = sorted(_folders_in(folder))
    if mistaken := sorted(name for name in names if name.lower() in MISTAKEN):
        raise UserError(
            f"root: {', '.join(mistaken)} found among the class folders in {folder}; a tree that is split has "
            "train/ and, beside it, val/ or test/"
        )
    if len(names) < 2:
        found = f"{len(names)} class folders found" if len(names) != 1 else f"one class found ({names[0]})"
        raise UserError(f"root: {found} in {folder}, at least 2 expected")
    return names


def readable(name: str) -> str:
    """A folder's name as text that can be drawn and written: of bytes that are not UTF-8, their numbers."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def find_files(root: Path, class_names: Sequence[str]) -> dict[str, Labelled]:
    """List the image files by part (`train`, `val`, `test`), or as one (`WHOLE`).

    Raises:
        UserError: two folders for validation, a class that `train/` lacks, or one without an image.
    """
    if not (root / "train").is_dir():
        return {WHOLE: _files_in(root, class_names)}
    folders = [folder for folder in PARTS if (root / folder).is_dir()]
    if len(folders) > len({PARTS[folder] for folder in folders}):
        twice = " and ".join(f"{folder}/" for folder in folders if PARTS[folder] == "val")
        raise UserError(f"root: {twice} found in {root}, one folder for validation expected")
    for folder in folders:
        if unknown := sorted(_folders_in(root / folder) - set(class_names)):
            raise UserError(f"root: {root / folder} has classes that {root / 'train'} lacks: {', '.join(unknown)}")
    return {PARTS[folder]: _files_in(root / folder, class_names) for folder in folders}


def _folders_in(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise UserError(f"root: no folder {folder}; name the one above the class folders with --data.root")
    return {child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")}


def _files_in(folder: Path, class_names: Sequence[str]) -> Labelled:
    names = _folders_in(folder)
    suffixes, others = image_suffixes(), Counter[str]()
    found: Labelled = []
    for number, name in enumerate(class_names):
        every = sorted(
            file
            for file in (folder / name).rglob("*")
            if not any(part.startswith(".") for part in file.relative_to(folder).parts) and not file.is_dir()
        )
        files = [file for file in every if file.suffix.lower() in suffixes]
        others.update(file.suffix.lower() or "none" for file in every if file.suffix.lower() not in suffixes)
        if name in names and not files:
            raise UserError(f"root: the class folder {folder / name} holds no image")
        found += [(file, number) for file in files]
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(NAMED_SUFFIXES))
        log.warning(f"{folder}: {others.total()} files left out, whose suffix is not an image's: {kinds}")
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
