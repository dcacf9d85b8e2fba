"""What a checkpoint says of itself: how its network is made, what images it reads, and what its classes are called.

    {"description": {"network": {"class_path", "init_args", "dict_kwargs"},   # as in a config; None where none names it
                     "class_names", "image_shape", "stored_shape", "mean", "std", "crop"}}   # see `Description`

All of it is plain numbers, words and lists. Whoever reads it has to doubt it: a file may say anything.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

import torch

from kd_lightning.errors import UserError

KEY = "description"
"""Under which a checkpoint keeps it."""

LARGEST = 2**12
"""Pixels of the longest side of an image that a description may ask for."""

ROUNDING = 0.005
"""Largest difference between two equal normalisations, in standard deviations: published ones have three digits."""

NAMED = 5
"""Class names that an error lists; the others it counts."""


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

    def per_channel(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Repeat a mean or standard deviation that is one for all channels: a value for each."""
        return values if len(values) == self.image_shape[0] else values * self.image_shape[0]

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


def _read(plain: Any, name: str) -> Description | None:
    """Read the description that a checkpoint holds; None where there is none, as in other people's files of weights.

    Args:
        plain: what the file has under `KEY`.
        name: of the option and the file, for the error.

    Raises:
        UserError: the description is malformed.
    """
    if not isinstance(plain, dict) or "class_names" not in plain:  # another's, if it is anything
        return None
    try:
        return Description.of(plain)
    except ValueError as error:
        raise UserError(f"{name} has a description that is none ({error})") from error


def compare_with_data(plain: Any, data: Any, name: str) -> list[int] | None:
    """Compare what a checkpoint's network was trained on with the data that it is to be used on.

    Compared are class names, `image_shape`, mean and standard deviation. How images are stored and cropped before that
    is the data's own business, as augmentation is.

    Args:
        plain: the checkpoint's description, as the file has it under `KEY`; a checkpoint without one fits any data.
        data: a data module; one that does not describe itself (`describe`) fits any checkpoint.
        name: of the option and the file, for errors.

    Returns:
        For each class of the data, the number of the network's output for it; None where the order is the same.

    Raises:
        UserError: other class names, another image shape or another normalisation.
    """
    trained, shown = _read(plain, name), describe(data)
    if trained is None or shown is None:
        return None
    if differences := _differences(trained, shown):
        raise UserError(
            f"{name} was trained with {' and '.join(differences)}; make the data like that (class names, "
            "data.image_size, data.mean, data.std), or train its network on this data"
        )
    order = [trained.class_names.index(class_name) for class_name in shown.class_names]
    return None if trained.class_names == shown.class_names else order


def _differences(trained: Description, shown: Description) -> list[str]:
    """What differs between two descriptions, both sides named; the order of the classes does not count."""
    found: list[tuple[str, Any, Any]] = []
    names, ours = trained.class_names, shown.class_names
    # Names that are not unique say nothing in another order.
    if names != ours and (sorted(names) != sorted(ours) or len({*names}) < len(names)):
        theirs_alone, ours_alone = [n for n in names if n not in ours], [n for n in ours if n not in names]
        found.append(("class_names", listed(theirs_alone or names), listed(ours_alone or ours)))
    if trained.image_shape != shown.image_shape:
        found.append(("image_shape", list(trained.image_shape), list(shown.image_shape)))
    if trained.image_shape[0] == shown.image_shape[0]:
        scale = trained.per_channel(trained.std)
        for name in ("mean", "std"):
            theirs, its = getattr(trained, name), getattr(shown, name)
            pairs = zip(trained.per_channel(theirs), shown.per_channel(its), scale, strict=True)
            if any(abs(one - other) > ROUNDING * unit for one, other, unit in pairs):
                found.append((name, listed([f"{v:.5g}" for v in theirs]), listed([f"{v:.5g}" for v in its])))
    return [f"{name} {theirs} (the data has {its})" for name, theirs, its in found]


def listed(values: Sequence[str]) -> str:
    """Write the first few of many words, and how many more there are."""
    more = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    return f"[{', '.join(values[:NAMED])}{more}]"


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
