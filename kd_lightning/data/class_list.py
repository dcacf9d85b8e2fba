"""A list of classes, from a file or from YAML: which folders are classes, in which order, and what they are called."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

from kd_lightning.errors import UserError
from kd_lightning.utils.name_list import read_lines

MAX_NAMED = 3
"""Names that an error lists; it counts the others."""


class ClassList(NamedTuple):
    """Names of the class folders in the order of their numbers, and the names to show for them."""

    folders: list[str]
    names: list[str]


def read_class_list(classes: str | Sequence[str], folders: Collection[str]) -> ClassList:
    """Read a list of classes.

    A line is the name of a folder, or the name of a folder and, after a space, what the class is called, as in
    ImageNet's `n01440764 tench, Tinca tinca`. Empty lines are skipped.

    Args:
        classes: path of a text file, or the lines themselves.
        folders: names of all class folders; if there are none, every line is a name.

    Raises:
        UserError: the file cannot be read, a class has no folder, occurs twice, or there are fewer than two.
    """
    pairs = [_folder_and_name(line, folders) for line in read_lines(classes, "classes")]
    if folders and (unknown := [folder for folder, _ in pairs if folder not in folders]):
        raise UserError(f"classes: no class folder {_named(unknown)}; found are {_named(sorted(folders))}")
    for what in zip(*pairs, strict=True):
        if twice := [name for name, count in Counter(what).items() if count > 1]:
            raise UserError(f"classes: {_named(twice)} found more than once, each class once expected")
    if len(pairs) < 2:
        raise UserError(f"classes: {len(pairs)} found, at least 2 expected")
    return ClassList(*(list(each) for each in zip(*pairs, strict=True)))


def _folder_and_name(line: str, folders: Collection[str]) -> tuple[str, str]:
    folder, *rest = line.split(maxsplit=1)
    return (folder, rest[0]) if rest and line not in folders and folder in folders else (line, line)


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
