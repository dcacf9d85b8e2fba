"""What a checkpoint says of itself: how its network is made, what images it reads, and what its classes are called.

    {"description": {"network": {"class_path", "init_args", "dict_kwargs"},   # as in a config; None where none names it
                     "class_names", "image_shape", "stored_shape", "mean", "std", "crop"}}   # see `Description`

All of it is plain numbers, words and lists. Whoever reads it has to doubt it: a file may say anything.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

import torch

KEY = "description"
"""Under which a checkpoint keeps it."""

LARGEST = 2**12
"""Pixels of the longest side of an image that a description may ask for."""


@dataclass(frozen=True)
class Description:
    """What a network reads and what its outputs mean: enough to use it without the data that it learned from.

    Args:
        class_names: of the outputs, in order.
        image_shape: (C, H, W) of the images that the network gets.
        stored_shape: (C, H, W) of the images as they come, before they are resized to `image_shape`.
        mean: per channel (or one for all), subtracted from pixels in [0, 1].
        std: per channel (or one for all), divided by; above 0.
        crop: whether the longer side of a photograph is cropped to keep its proportions; else it is squeezed.

    Raises:
        ValueError: one of them is not what it should be.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    stored_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: bool = True

    def __post_init__(self) -> None:
        if len(self.class_names) < 2 or not all(isinstance(name, str) for name in self.class_names):
            raise ValueError(f"class_names: {list(self.class_names)[:3]} found, at least 2 names expected")
        for name, shape in {"image_shape": self.image_shape, "stored_shape": self.stored_shape}.items():
            if len(shape) != 3 or not all(isinstance(side, int) and 0 < side <= LARGEST for side in shape):
                raise ValueError(f"{name}: {list(shape)[:4]} found, three numbers from 1 to {LARGEST} expected")
        if self.image_shape[0] != self.stored_shape[0]:
            raise ValueError(f"image_shape: {self.image_shape[0]} channels found, {self.stored_shape[0]} expected")
        for name, values in {"mean": self.mean, "std": self.std}.items():
            if len(values) not in (1, self.image_shape[0]) or not all(map(math.isfinite, values)):
                raise ValueError(f"{name}: {list(values)[:4]} found, a number for each channel expected")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std: {list(self.std)} found, numbers above 0 expected")

    def plain(self) -> dict[str, Any]:
        """Itself, as a file keeps it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, plain: Any) -> "Description":
        """What a file says.

        Raises:
            ValueError: it is no description.
        """
        names = [field.name for field in fields(cls)]
        try:
            return cls(**{name: _as_tuple(plain[name]) for name in names})
        except (LookupError, TypeError) as error:
            raise ValueError(f"{KEY}: {', '.join(names)} expected") from error


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def describe(data: Any) -> Description | None:
    """What a data module of ours shows to networks; None of one of another kind, or without a data module."""
    try:
        return Description(
            class_names=tuple(data.class_names),
            image_shape=tuple(data.image_shape),
            stored_shape=tuple(data.stored_shape),
            mean=tuple(torch.as_tensor(data.mean).flatten().tolist()),
            std=tuple(torch.as_tensor(data.std).flatten().tolist()),
            # Of images that no photograph was made into, either way would do.
            crop=bool(getattr(getattr(data, "decoder", None), "crop", True)),
        )
    except (AttributeError, TypeError, ValueError):
        return None


def plain_network(network: Any) -> dict[str, Any] | None:
    """The part of a parsed config that names a network, as a file keeps it; None of what is no such part."""
    if getattr(network, "class_path", None) is None:
        return None
    return _plain(network.as_dict())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    return value if value is None or type(value) in (bool, int, float, str) else str(value)
