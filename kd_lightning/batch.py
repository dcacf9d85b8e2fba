"""The batch that data modules pass to modules, and access to a trainer's data and callbacks."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd_lightning.errors import UserError


class Batch(NamedTuple):
    """B normalised images with what losses, the logit cache and callbacks need.

    Attributes:
        image: float (B, C, H, W), normalised.
        label: int64 (B,), the class, in [0, classes), or `UNLABELLED` in training.
        index: int64 (B,), position in the whole training set, or in the test set during a test.
        view: int64 (B,), number of the augmented view; 0 for none.
        target: float (B, classes), probabilities of the classes of mixed images, for the hard loss; zeros for an
            unlabelled image; None where the label holds.
        unmixed: float (B, C, H, W), the images before they were mixed, where the hard loss is computed on them.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which is not used
    view: Tensor
    target: Tensor | None = None
    unmixed: Tensor | None = None


UNLABELLED = -1
"""Label of a training image without label: the hard loss leaves it out."""

UNKNOWN_INDEX = -1
"""Index of images of a plain `DataLoader`, whose positions are unknown."""


def as_batch(batch: Any) -> Batch:
    """Convert a batch of any data loader to `Batch`.

    Args:
        batch: a `Batch`, or (images (B, ...), labels int (B,)) as a tuple or list.

    Raises:
        UserError: a batch of another form.
    """
    if isinstance(batch, Batch):
        return batch
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        raise UserError(f"data: a batch of {_kind(batch)} found, a tensor of images and a tensor of labels expected")
    image, label = batch
    if label.is_floating_point() or label.is_complex() or label.shape != image.shape[:1]:
        raise UserError(
            f"data: labels {str(label.dtype).removeprefix('torch.')} {tuple(label.shape)} found for images "
            f"{tuple(image.shape)}, a class number for each image expected"
        )
    label = label.long()
    return Batch(image, label, torch.full_like(label, UNKNOWN_INDEX), torch.zeros_like(label))


def images_of(batch: Any) -> Tensor:
    """Return the images of a batch, which may lack labels in prediction: float (B, C, H, W)."""
    return batch if isinstance(batch, Tensor) else as_batch(batch).image


def _kind(batch: Any) -> str:
    if not isinstance(batch, (tuple, list)):
        return f"type {type(batch).__name__}"
    return f"{len(batch)} ({', '.join(type(part).__name__ for part in batch[:4])}{', …' if len(batch) > 4 else ''})"


def class_names_of(trainer: Any, count: int) -> list[str]:
    """Return the names of the classes, or their numbers if the data has no names.

    Args:
        trainer: has the data.
        count: number of classes.
    """
    names = getattr(data_of(trainer), "class_names", None)
    return [str(name) for name in names] if names and len(names) == count else [*map(str, range(count))]


def epoch_batch_sizes(images: int, size: int) -> list[int]:
    """Return the sizes of an epoch's batches of `size` images, at least one batch.

    A last batch of one image is dropped, as batch norm cannot train on it.
    """
    whole, left = divmod(images, size)
    return [size] * whole + ([left] if left > 1 or (left and not whole) else [])


def data_of(trainer: Any) -> Any:
    """Return a trainer's data module, which Lightning's types do not declare; None if it has loaders."""
    return trainer.datamodule


def callbacks_of(trainer: Any) -> list[Any]:
    """Return a trainer's callbacks, which Lightning's types do not declare."""
    return list(trainer.callbacks)
