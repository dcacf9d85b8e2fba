"""Data module for Hugging Face's `datasets`: from the hub, or from local files."""

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kd_lightning.batch import UNLABELLED
from kd_lightning.data.decoded import DecodedDataModule
from kd_lightning.data.image_files import WHOLE, Labelled
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.extras import need_packages

USUAL = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}
"""Names of splits, by part; the first that a dataset has is used."""


class Row(NamedTuple):
    """The image in one row of a split."""

    images: Any
    """The split's column of images, undecoded."""
    split: str
    place: int

    def content(self) -> bytes:
        """Return the bytes of the image file."""
        (image,) = self.images[self.place].values()
        if image is None or image["bytes"] is None:
            raise ValueError("no image in this row")
        return image["bytes"]

    def stamp(self) -> str:
        """Return the fingerprint of the split, and the row."""
        return f"{self.images._fingerprint} {self.place}"

    def __str__(self) -> str:
        return f"{self.split}[{self.place}]"


class HuggingFaceDataModule(DecodedDataModule):
    """A dataset of images with one class each, as `datasets.load_dataset` reads it: from the hub, or from local files.

    Local is a folder of parquet files, an imagefolder, a parquet file, or a folder of `save_to_disk`. The dataset is
    loaded when the module is created, as the names of the classes are in it, and what comes from the hub is kept in
    Hugging Face's own cache. How images are decoded, cached and streamed: see `DecodedDataModule`.

    A dataset with a training split alone is split by `split`; without a test split (or with one whose labels are all
    -1) the validation split is tested, with a message. Training images with the label -1 or none are unlabelled.

    Args:
        path: name on the hub, or a local folder or parquet file.
        name: configuration of the dataset, if it has several.
        image_column: column of the images; by default the only one of type `Image`.
        label_column: column of the classes, as numbers or as names; by default the only one of type `ClassLabel`, or
            `label`.
        train_split: training split, such as `train[:90%]`; by default `train`.
        val_split: validation split; by default `validation`, `val`, `valid` or `dev`.
        test_split: test split; by default `test`.
        image_size: height and width of the network's input, in pixels, at least 1.
        **kwargs: see `DecodedDataModule`.

    Raises:
        UserError: the dataset cannot be loaded, or has no such split or column.
    """

    option = "path"

    def __init__(
        self,
        path: str,
        name: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        train_split: str | None = None,
        val_split: str | None = None,
        test_split: str | None = None,
        image_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, image_size, **kwargs)
        self.path, self.name = str(self.root), name
        if self.root.exists():  # whose files have absolute paths
            self.root = self.root.absolute()
        given = {"train": train_split, "val": val_split, "test": test_split}
        self._parts = _load(self.path, name, given)
        features = self._parts["train"].features
        self._image_column = _image_column(features, image_column)
        label = _label_column(features, label_column)
        self._labels = {part: _values(rows, label) for part, rows in self._parts.items()}
        self.class_names = _class_names(features[label], self._labels["train"], label)
        if test_split is None and not any(map(_is_labelled, self._labels.get("test", ()))):
            self._parts.pop("test", None)  # as of a competition
        self.has_unlabelled |= not all(map(_is_labelled, self._labels["train"]))

    def cache_key(self) -> bytes:
        """Return path and configuration."""
        return os.fsencode(f"huggingface {self.root} {self.name}")

    def find(self) -> dict[str, Labelled]:
        """List the images with their classes, by part, or as one part."""
        found = {part: self._rows(part) for part in self._parts}
        return {WHOLE: found["train"]} if found.keys() == {"train"} else found

    def _rows(self, part: str) -> Labelled:
        images = _undecoded(self._parts[part], self._image_column)
        numbers = {name: number for number, name in enumerate(self.class_names)}
        labels = (self._number(label, numbers, part) for label in self._labels[part])
        files = _files(images, self._image_column)
        return [
            (file or Row(images, str(images.split or part), place), label)
            for place, (file, label) in enumerate(zip(files, labels, strict=True))
        ]

    def _number(self, label: Any, numbers: Mapping[str, int], part: str) -> int:
        """Return the number of a class, which may be a name."""
        if not _is_labelled(label):
            return UNLABELLED
        if isinstance(label, str) and label not in numbers:
            raise UserError(f"path: {self.path} has {part} images of {label}, a class without training images")
        return numbers[label] if isinstance(label, str) else int(label)


def _is_labelled(label: Any) -> bool:
    return label is not None and label != UNLABELLED


def _load(path: str, name: str | None, given: Mapping[str, str | None]) -> dict[str, Any]:
    """Load the splits of the parts `train`, `val` and `test`, as far as there are any."""
    library = _library()
    try:
        with _quiet():
            if _is_saved(Path(path)):
                whole = library.load_from_disk(path)
                whole = whole if hasattr(whole, "keys") else {"train": whole}
            elif Path(path).is_file():
                whole = library.load_dataset("parquet", data_files=path)
            else:
                whole = library.load_dataset(path, name)
    except Exception as error:  # of any kind: connections, files, configurations
        if Path(path).exists():
            raise UserError(f"path: {path} cannot be loaded ({_reason(error)})") from error
        raise UserError(
            f"path: {path} is no local folder, and cannot be loaded from the hub ({_reason(error)})"
        ) from error
    parts = {}
    for part, usual in USUAL.items():
        split = given[part] or next((each for each in usual if each in whole), None)
        if split is None:
            continue
        try:
            parts[part] = whole[split] if split in whole else library.load_dataset(path, name, split=split)
        except Exception as error:
            raise UserError(
                f"{part}_split: {split} found, one of {', '.join(whole)} or a part of it expected ({_reason(error)})"
            ) from error
    if "train" not in parts:
        raise UserError(f"train_split: {path} has no split train; one of {', '.join(whole)} expected")
    return parts


def _reason(error: Exception) -> str:
    """Return what went wrong, rather than that something did while a dataset was generated."""
    return one_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)


def _is_saved(folder: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the hub's lines about each attempt to connect."""
    log = importlib.import_module("huggingface_hub").logging
    before = log.get_verbosity()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(before)


def _library() -> Any:
    need_packages("datasets")
    return importlib.import_module("datasets")


def _image_column(features: Mapping[str, Any], given: str | None) -> str:
    of_images = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    return _chosen("image_column", features, given, of_images)


def _label_column(features: Mapping[str, Any], given: str | None) -> str:
    of_classes = [name for name, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    return _chosen("label_column", features, given, of_classes or [name for name in features if name == "label"])


def _chosen(option: str, features: Mapping[str, Any], given: str | None, possible: Sequence[str]) -> str:
    """Return the column that was given, or the only possible one."""
    if given in features or (given is None and len(possible) == 1):
        return given or possible[0]
    found = given or f"{len(possible)} possible columns"
    columns = ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())
    raise UserError(f"{option}: {found} found, one of the dataset's columns expected: {columns}")


def _kind(feature: Any) -> str:
    """Return the type of a column: of values that of the value, such as int64."""
    return feature.dtype if type(feature).__name__ == "Value" else type(feature).__name__


def _values(rows: Any, column: str) -> list[Any]:
    """Return the values of a column; None for each row if a split lacks it."""
    if column not in rows.features:
        return [None] * len(rows)
    return rows.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()


def _class_names(feature: Any, labels: Sequence[Any], column: str) -> list[str]:
    """Return the names of the classes: those of a `ClassLabel`, all different texts in order, or numbers."""
    if type(feature).__name__ == "ClassLabel":
        return list(feature.names)
    kinds = {type(label) for label in labels if _is_labelled(label)}
    if kinds == {str}:
        return sorted({label for label in labels if label is not None})
    if kinds == {int}:
        return [str(number) for number in range(max(filter(_is_labelled, labels)) + 1)]
    raise UserError(f"label_column: {column} ({_kind(feature)}) found, class numbers or names expected")


def _undecoded(rows: Any, column: str) -> Any:
    """Return a table of the images alone, as bytes or paths of image files."""
    try:
        return rows.select_columns([column]).cast_column(column, _library().Image(decode=False))
    except Exception as error:
        kind = _kind(rows.features[column])
        raise UserError(f"image_column: {column} ({kind}) found, images expected ({one_line(error)})") from error


def _files(images: Any, column: str) -> list[Path | None]:
    """Return the path of each image that is a local file; None for those whose bytes are in the table."""
    stored = images.with_format("arrow")[:].column(column)
    parts = [chunk.flatten() for chunk in stored.chunks]  # of (bytes, path)
    held = [is_valid for content, _ in parts for is_valid in content.is_valid().to_pylist()]
    names = [name for _, path in parts for name in path.to_pylist()]
    return [Path(name) if name and not is_held else None for is_held, name in zip(held, names, strict=True)]
