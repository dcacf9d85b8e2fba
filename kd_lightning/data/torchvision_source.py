"""torchvision's classification datasets: find their parts, download them, and read arrays or lists of files."""

import difflib
import gzip
import inspect
import os
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import torchvision
from filelock import FileLock

from kd_lightning.batch import UNLABELLED
from kd_lightning.data.image_files import WHOLE, Labelled
from kd_lightning.data.sets import ImageSet
from kd_lightning.data.torchvision_items import class_names_of, list_files, read_arrays
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.atomic_write import atomic_write
from kd_lightning.utils.download import short_timeout

USUAL = {"train": ("train", "trainval", "train-standard"), "val": ("val", "valid"), "test": ("test",)}
"""torchvision's values of `split`, by part; the first that a dataset accepts is used."""

RESERVED = {"root", "train", "download", "loader", "transform", "target_transform", "transforms"}
"""Arguments of datasets that the data module has options for, or sets itself."""


class TorchvisionSource:
    """A classification dataset of torchvision: a class that yields images with class numbers.

    Args:
        dataset: name of a class in `torchvision.datasets`.
        root: torchvision's `root`; missing files are downloaded into it.
        splits: values of `split` of the parts `train`, `val` and `test`; None for the usual ones.
        arguments: further arguments of the class.
        files: paths of all files below `root`; if they are there, nothing is downloaded.
        needed: what to put where if nothing can be downloaded; by default the file whose download failed.
        title: name of the dataset in errors; by default `dataset`.

    Raises:
        UserError: no such dataset, split or argument.
    """

    def __init__(
        self,
        dataset: str,
        root: str | Path,
        splits: Mapping[str, str | None] | None = None,
        arguments: Mapping[str, Any] | None = None,
        files: Sequence[str] = (),
        needed: str = "",
        title: str = "",
    ) -> None:
        self.kind = _find(dataset)
        self.root = Path(root)
        self.title = title or dataset
        self._arguments = dict(arguments or {})
        if own := sorted(RESERVED & self._arguments.keys()):
            raise UserError(f"dataset_kwargs: {', '.join(own)} found, which the data module sets itself")
        self._expected = [self.root / name for name in files]
        self._needed = needed
        self._accepted = _arguments_of(self.kind)
        if "root" not in self._accepted:
            raise UserError(f"dataset: {dataset} found, which has no root folder; images of files expected")
        self.parts = self._find_parts(splits or {})
        self._opened: dict[str, Any] = {}
        self._in_memory: dict[str, ImageSet | None] = {}
        self._labelled: dict[str, Labelled] = {}

    def prepare(self) -> None:
        """Download the files that are missing."""
        if self._expected and all(file.is_file() for file in self._expected):
            return  # `open` reports unreadable ones
        for part in self.parts:
            self.open(part)

    def open(self, part: str) -> Any:
        """Return torchvision's dataset of one part; download missing files.

        Raises:
            UserError: its files are missing and cannot be downloaded, or cannot be read.
        """
        if part not in self._opened:
            self._opened[part] = self._open(self.parts[part])
        return self._opened[part]

    @cached_property
    def array_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of images that are arrays in memory; None for files."""
        found = self._arrays(next(iter(self.parts)))
        return (found.image.shape[1], found.image.shape[2], found.image.shape[3]) if found else None

    def arrays(self, part: str) -> ImageSet:
        """Return the images and labels of a part in file order, and release torchvision's own copy."""
        found = self._arrays(part)
        assert found is not None  # by `array_shape`
        self._opened.pop(part), self._in_memory.pop(part)
        return found

    def labelled(self, part: str) -> Labelled:
        """List the files of a part with their class numbers; for arrays, their positions."""
        if part not in self._labelled:
            found = self._arrays(part)
            self._labelled[part] = (
                [*enumerate(found.label.tolist())] if found else list_files(self.open(part), self.title)
            )
        return self._labelled[part]

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes as torchvision gives them; otherwise the numbers up to the highest label."""
        part = next(iter(self.parts))
        highest = max((label for _, label in self.labelled(part)), default=-1)
        return class_names_of(self.open(part), highest + 1)

    @property
    def has_unlabelled(self) -> bool:
        """Return whether training images have the label -1, as STL10's `train+unlabeled`."""
        return any(label == UNLABELLED for _, label in self.labelled(next(iter(self.parts))))

    def _arrays(self, part: str) -> ImageSet | None:
        if part not in self._in_memory:
            self._in_memory[part] = read_arrays(self.open(part), self.title)
        return self._in_memory[part]

    def _open(self, arguments: Mapping[str, Any]) -> Any:
        given = {**self._arguments, **arguments}
        if "loader" in self._accepted:
            given["loader"] = Path  # it yields the files themselves
        offers_download = "download" in self._accepted
        off, on = ({"download": value} if offers_download else {} for value in (False, True))
        made = self.kind.__new__(self.kind)  # what it finds out about its folder before it fails is in its attributes
        try:
            made.__init__(self.root, **given, **off)
            return made
        except Exception as error:  # any kind: the files are read by many libraries
            if self._expected and all(file.is_file() for file in self._expected):
                raise UserError(
                    f"{self.title}: cannot read the files in {_folder_of(made, self.root)} ({one_line(error)}); delete "
                    "the damaged file to have it downloaded anew"
                ) from error
            problem = error
        try:
            _unpack_beside(_folder_of(made, self.root))
            if not offers_download:
                raise problem  # which says where to find the files
            with ExitStack() as stack:
                self.root.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(self.root / f".{self.kind.__name__}.lock"))  # other processes wait
                stack.enter_context(short_timeout())
                return self.kind(self.root, **given, **on)
        except Exception as error:
            raise UserError(self._missing(_folder_of(made, self.root), problem, error)) from error

    def _missing(self, folder: Path, problem: Exception, error: Exception) -> str:
        """Return the message about files that are not there, or unreadable, and cannot be downloaded."""
        what = f"{self._needed}, or name the folder above with --data.root"
        if not self._needed:
            url, into = _download_of(error)
            address, _, name = url.rpartition("/")
            what = (
                f"put {name} from {address}/ into {into or folder}" if url else "put its files where torchvision does"
            )
            what += ", or name another folder with --data.root"
        why = one_line(problem)
        if self._needed or "not found" in why or isinstance(problem, FileNotFoundError):
            return f"{self.title}: not found in {folder} and cannot be downloaded ({one_line(error)}); {what}"
        why += f"; and cannot be downloaded: {one_line(error)}" if error is not problem else ""
        return f"{self.title}: cannot read the files in {folder} ({why}); {what}"

    def _find_parts(self, splits: Mapping[str, str | None]) -> dict[str, dict[str, Any]]:
        """Return the arguments of the parts `train`, `val` and `test`; without any split, those of the whole."""
        given = {part: value for part, value in splits.items() if value is not None}
        if "train" not in self._accepted and "split" in self._accepted:
            return self._find_splits(given)
        if given:
            part = next(iter(given))
            how = "a training and a test set" if "train" in self._accepted else "no splits"
            raise UserError(f"{part}_split: {given[part]} found, but torchvision's {self.title} has {how}")
        parts = {"train": {"train": True}, "test": {"train": False}} if "train" in self._accepted else {WHOLE: {}}
        for arguments in parts.values():
            if problem := self._problem(arguments):
                raise UserError(f"dataset_kwargs: {self.title}: {problem}")
        return parts

    def _find_splits(self, given: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        if "split" in self._arguments:
            raise UserError("dataset_kwargs: split found; use train_split, val_split and test_split")
        parts: dict[str, dict[str, Any]] = {}
        for part, usual in USUAL.items():
            if part in given and (problem := self._problem({"split": given[part]})):
                raise UserError(f"{part}_split: {given[part]} found; {self.title}: {problem}")
            values = [given[part]] if part in given else [v for v in usual if not self._problem({"split": v})]
            if values:
                parts[part] = {"split": values[0]}
        if "train" not in parts:
            raise UserError(f"dataset_kwargs: {self.title}: {self._problem({'split': 'train'})}")
        if "val" not in given and "val" in parts and _contains(parts["train"]["split"], parts["val"]["split"]):
            del parts["val"]  # such as `trainval`
        return parts

    def _problem(self, arguments: Mapping[str, Any]) -> str:
        """Return why torchvision refuses arguments, whatever the files are; empty if it accepts them."""
        try:
            self.kind(os.devnull, **self._arguments, **arguments)  # nothing can be found or created there
        except (TypeError, ValueError) as error:
            return one_line(error)
        except Exception:  # files are missing, of course
            return ""
        return ""


def _find(name: str) -> Any:
    """Return a class of `torchvision.datasets` by its name."""
    names = [each for each in torchvision.datasets.__all__ if inspect.isclass(getattr(torchvision.datasets, each))]
    if name in names:
        return getattr(torchvision.datasets, name)
    same = {each.lower().replace("-", ""): each for each in names}
    key = name.lower().replace("-", "").replace("_", "")
    close = [same[each] for each in difflib.get_close_matches(key, same, n=3)]
    more = f", such as {' or '.join(close)}" if close else ""
    raise UserError(f"dataset: {name} found, a classification dataset of torchvision.datasets expected{more}")


def _arguments_of(kind: Any) -> set[str]:
    """Return the names of a class's arguments, and those of its bases where it passes `**kwargs` on."""
    names: set[str] = set()
    for base in kind.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {parameter.name for parameter in parameters}
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return names


def _contains(train: str, val: str) -> bool:
    """Return whether a training split such as `trainval` includes the validation split."""
    return train.startswith("train") and val in train.removeprefix("train")


def _folder_of(dataset: Any, root: Path) -> Path:
    """Return the folder of a dataset's files, as far as it is known."""
    for name in ("raw_folder", "_base_folder", "_data_path", "_data_dir", "_size_root"):
        try:
            return Path(getattr(dataset, name))
        except (AttributeError, TypeError):
            continue
    own = Path(getattr(dataset, "root", None) or root)  # such as root/caltech101
    base = getattr(dataset, "base_folder", "")
    return own / base if isinstance(base, str) and own.name != base else own


def _unpack_beside(folder: Path) -> None:
    """Unpack MNIST-like `.gz` files beside themselves, whoever compressed them; torchvision only takes its own."""
    for packed in folder.glob("*-idx?-*.gz"):
        if not packed.with_suffix("").exists():
            with atomic_write(packed.with_suffix("")) as temporary:
                temporary.write_bytes(gzip.decompress(packed.read_bytes()))


def _download_of(error: BaseException | None) -> tuple[str, str]:
    """Return the address whose download failed, and its folder, from the frames of the error; empty if unknown."""
    found = "", ""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            url, into = (frame.f_locals.get(name) for name in ("url", "root"))
            if isinstance(url, str) and "://" in url and not found[1]:
                found = url, str(into or "")
        error = error.__cause__ or error.__context__
    return found
