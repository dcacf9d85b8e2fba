"""The images, labels and class names of a dataset object of torchvision, whatever its attributes are called."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kd_lightning.batch import UNLABELLED
from kd_lightning.data.image_files import Labelled
from kd_lightning.data.sets import ImageSet
from kd_lightning.errors import UserError

NAMES_OF_FILES = (("_image_files", "_labels"), ("_images", "_labels"))
"""Attributes of files and labels, of datasets without a `loader` argument."""

LOADERS = ("loader", "_loader")
"""Attributes of a dataset that has opened its files with the `loader` argument."""


def read_arrays(dataset: Any, title: str) -> ImageSet | None:
    """Return the images and labels of a dataset that has them in memory; None for one of files."""
    data = getattr(dataset, "data", None)
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if not isinstance(data, Tensor) or data.dtype != torch.uint8 or data.ndim not in (3, 4):
        return _read_items(dataset, title) if _has_no_files(dataset) else None
    label = torch.as_tensor(dataset.targets if hasattr(dataset, "targets") else dataset.labels).long()
    label = label[:, 0] if label.ndim == 2 else label  # QMNIST has further columns
    if data.ndim == 3:
        return ImageSet(data.unsqueeze(1), label)
    has_channels_last = data.shape[-1] == 3 and data.shape[1] != 3
    return ImageSet((data.permute(0, 3, 1, 2) if has_channels_last else data).contiguous(), label)


def _has_no_files(dataset: Any) -> bool:
    """Return whether a dataset has images that are no files of their own, such as rows of a table."""
    if any(hasattr(dataset, name) for name in LOADERS) or _listed(dataset) is not None or not len(dataset):
        return False
    item = dataset[0]
    image = item[0] if isinstance(item, (tuple, list)) else item
    return isinstance(image, Image.Image) and not getattr(image, "filename", "")


def _read_items(dataset: Any, title: str) -> ImageSet:
    """Read all images of a dataset, which are of one size and mode."""
    images, labels = [], []
    for place in range(len(dataset)):
        image, label = _pair(dataset[place], title)
        images.append(torch.from_numpy(np.array(image)))
        labels.append(label)
    if len({image.shape for image in images}) > 1:
        raise UserError(f"dataset: {title} found, whose images are no files and have several sizes")
    every = torch.stack(images)
    return ImageSet(
        every.unsqueeze(1) if every.ndim == 3 else every.permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)
    )


def list_files(dataset: Any, title: str) -> Labelled:
    """List the files of a dataset, with their class numbers."""
    # With the loader of `_open` a dataset yields files, otherwise images that know theirs.
    items = _listed(dataset) or (dataset[place] for place in range(len(dataset)))
    found = []
    for item in items:
        file, label = _pair(item, title)
        if isinstance(file, Image.Image):
            file.close()
            file = getattr(file, "filename", None)
        if not isinstance(file, (str, Path)):
            raise UserError(f"dataset: {title} found, which yields {type(file).__name__}; files of images expected")
        found.append((Path(file), label))
    return found


def _listed(dataset: Any) -> list[Any] | None:
    """Return the pairs of file and label that a dataset without a `loader` has as attributes, if it has."""
    if any(hasattr(dataset, name) for name in LOADERS):
        return None
    samples = getattr(dataset, "_samples", None)
    if samples and isinstance(samples[0][0], (str, Path)):
        return list(samples)
    for names in NAMES_OF_FILES:
        if all(hasattr(dataset, name) for name in names):
            return list(zip(*(getattr(dataset, name) for name in names), strict=True))
    return None


def _pair(item: Any, title: str) -> tuple[Any, int]:
    """Return an item's image or file, and the number of its class; `UNLABELLED` for None."""
    if isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[1], (int, np.integer, type(None))):
        return item[0], UNLABELLED if item[1] is None else int(item[1])
    kinds = ", ".join(type(part).__name__ for part in item) if isinstance(item, (tuple, list)) else type(item).__name__
    raise UserError(f"dataset: {title} found, whose items are ({kinds}); an image and a class number expected")


def class_names_of(dataset: Any, count: int) -> list[str]:
    """Return the names of at least `count` classes."""
    lists = [getattr(dataset, name, None) for name in ("classes", "bin_classes", "categories", "all_categories")]
    numbers = getattr(dataset, "class_to_idx", None)
    if isinstance(numbers, dict):
        first = {number: name for name, number in reversed(numbers.items())}  # a class may have several names
        lists.append([first.get(number, str(number)) for number in range(max(first, default=-1) + 1)])
    known = [[_name(each) for each in names] for names in lists if isinstance(names, (list, tuple))]
    exact = [names for names in known if len(names) == count]
    larger = [names for names in known if len(names) > count]
    return (exact or larger or [[str(number) for number in range(count)]])[0]


def _name(name: Any) -> str:
    """Return the first of a class's synonyms."""
    return str(name[0] if isinstance(name, (tuple, list)) else name)
