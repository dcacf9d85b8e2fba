"""What flows from the data to the modules."""

from typing import Any, NamedTuple

from torch import Tensor


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


def batch_sizes(images: int, size: int) -> list[int]:
    """How many images each batch of an epoch holds, dealt `size` at a time: at least one batch.

    A single image that is left over is left out: batch norm cannot learn from it.
    """
    whole, left = divmod(images, size)
    return [size] * whole + ([left] if left > 1 or (left and not whole) else [])


def data_of(trainer: Any) -> Any:
    """The data module that a trainer was given, of which Lightning's types say nothing; None where it has loaders."""
    return trainer.datamodule
