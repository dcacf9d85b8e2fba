"""The batch that data modules pass to modules, and access to a trainer's data and callbacks."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd_lightning.errors import UserError


class Batch(NamedTuple):
    """B images, ready for a network, with all that a loss, a cache or a callback needs to know of them.

    Attributes:
        image: float (B, C, H, W), normalised.
        label: int64 (B,), the class, in [0, classes).
        index: int64 (B,), the image's place in the whole training set (in the test set, when testing).
        view: int64 (B,), which of the finite augmentations the image got; 0 is none.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nothing calls
    view: Tensor


UNKNOWN_INDEX = -1
"""Index of an image that a plain `DataLoader` gave, which does not say where in its dataset the image is."""


def as_batch(batch: Any) -> Batch:
    """Convert a batch of any data loader to `Batch`.

    Args:
        batch: a `Batch`, or (images (B, ...), labels int (B,)) as a tuple or list.

    Raises:
        UserError: it is something else.
    """
    if isinstance(batch, Batch):
        return batch
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        raise UserError(f"data: a batch of {_kind(batch)} found, a tensor of images and a tensor of labels expected")
    image, label = batch
    if label.is_floating_point() or label.is_complex() or label.shape != image.shape[:1]:
        raise UserError(
            f"data: labels {str(label.dtype).removeprefix('torch.')} {tuple(label.shape)} found for images "
            f"{tuple(image.shape)}, the number of its class for each image expected"
        )
    label = label.long()
    return Batch(image, label, torch.full_like(label, UNKNOWN_INDEX), torch.zeros_like(label))


def images_of(batch: Any) -> Tensor:
    """Find the images in a batch that may be without labels, as for prediction: float (B, C, H, W)."""
    return batch if isinstance(batch, Tensor) else as_batch(batch).image


def _kind(batch: Any) -> str:
    if not isinstance(batch, (tuple, list)):
        return f"type {type(batch).__name__}"
    return f"{len(batch)} ({', '.join(type(part).__name__ for part in batch[:4])}{', …' if len(batch) > 4 else ''})"


def class_names_of(trainer: Any, count: int) -> list[str]:
    """The names of the classes, or where the data names none their numbers.

    Args:
        trainer: whose data it is.
        count: of the classes.
    """
    names = getattr(data_of(trainer), "class_names", None)
    return [str(name) for name in names] if names and len(names) == count else [*map(str, range(count))]


def epoch_batch_sizes(images: int, size: int) -> list[int]:
    """How many images each batch of an epoch holds, dealt `size` at a time: at least one batch.

    A single image that is left over is left out: batch norm cannot learn from it.
    """
    whole, left = divmod(images, size)
    return [size] * whole + ([left] if left > 1 or (left and not whole) else [])


def data_of(trainer: Any) -> Any:
    """The data module that a trainer was given, of which Lightning's types say nothing; None where it has loaders."""
    return trainer.datamodule


def callbacks_of(trainer: Any) -> list[Any]:
    """The callbacks of a trainer, which Lightning's types do not declare."""
    return list(trainer.callbacks)
