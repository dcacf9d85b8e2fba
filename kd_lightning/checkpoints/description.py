"""Description of a checkpoint: its network's config, the images that the network reads, its class names.

    {"description": {"network": {"class_path", "init_args", "dict_kwargs"},   # as in a config; None where none names it
                     "class_names", "image_shape", "stored_shape", "mean", "std", "crop"}}   # see `Description`

It consists of plain numbers, strings and lists. It is validated when read, as anyone may have written the file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

import torch

from kd_lightning.errors import UserError

KEY = "description"
"""Key of the description in a checkpoint."""

MAX_SIDE = 2**12
"""Largest height and width of images in a description, in pixels."""

TOLERANCE = 0.005
"""Largest difference between equal normalisations, in standard deviations: published ones have three digits."""

MAX_NAMED = 5
"""Class names that an error lists; it counts the others."""


@dataclass(frozen=True)
class Description:
    """What a network reads and what its outputs mean, so that it can be used without its training data.

    Args:
        class_names: names of the outputs, in order.
        image_shape: (C, H, W) of the network's input.
        stored_shape: (C, H, W) of the images before they are resized to `image_shape`.
        mean: subtracted from pixels in [0, 1]; one value per channel, or one for all.
        std: divisor after that, above 0; one value per channel, or one for all.
        crop: whether photographs are cropped to the aspect ratio; otherwise they are stretched.
        interpolation: how an `OwnInput` resizes images for the network, if its config says so; not among the values of
            a file.

    Raises:
        ValueError: a value is out of range or of another form.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    stored_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: bool = True
    interpolation: str | None = None

    def __post_init__(self) -> None:
        if len(self.class_names) < 2 or not all(isinstance(name, str) for name in self.class_names):
            raise ValueError(f"class_names: {list(self.class_names)[:3]} found, at least 2 names expected")
        for name, shape in {"image_shape": self.image_shape, "stored_shape": self.stored_shape}.items():
            if len(shape) != 3 or not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in shape):
                raise ValueError(f"{name}: {list(shape)[:4]} found, three numbers from 1 to {MAX_SIDE} expected")
        if self.image_shape[0] != self.stored_shape[0]:
            raise ValueError(f"image_shape: {self.image_shape[0]} channels found, {self.stored_shape[0]} expected")
        for name, values in {"mean": self.mean, "std": self.std}.items():
            if len(values) not in (1, self.image_shape[0]) or not all(map(math.isfinite, values)):
                raise ValueError(f"{name}: {list(values)[:4]} found, a number for each channel expected")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std: {list(self.std)} found, numbers above 0 expected")

    def per_channel(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Return one value for each channel."""
        return values if len(values) == self.image_shape[0] else values * self.image_shape[0]

    def plain(self) -> dict[str, Any]:
        """Return the description as plain values, for a file."""
        values = asdict(self)
        del values["interpolation"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def of(cls, plain: Any) -> "Description":
        """Return the description from the plain values in a file.

        Raises:
            ValueError: a value is missing or invalid.
        """
        names = [field.name for field in fields(cls) if field.name != "interpolation"]
        try:
            return cls(**{name: _as_tuple(plain[name]) for name in names})
        except (LookupError, TypeError) as error:
            raise ValueError(f"{KEY}: {', '.join(names)} expected") from error


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def describe(data: Any) -> Description | None:
    """Return the description of a data module; None if it lacks what a description needs."""
    try:
        return Description(
            class_names=tuple(data.class_names),
            image_shape=tuple(data.image_shape),
            stored_shape=tuple(data.stored_shape),
            mean=tuple(torch.as_tensor(data.mean).flatten().tolist()),
            std=tuple(torch.as_tensor(data.std).flatten().tolist()),
            # It does not matter for data without photographs.
            crop=bool(getattr(getattr(data, "decoder", None), "crop", True)),
        )
    except (AttributeError, TypeError, ValueError):
        return None


def read_description(plain: Any, name: str) -> Description | None:
    """Read the description in a checkpoint; None if it has none, as files from elsewhere.

    Args:
        plain: the file's value under `KEY`.
        name: option and file, for errors.

    Raises:
        UserError: the description is malformed.
    """
    if not isinstance(plain, dict) or "class_names" not in plain:  # not ours
        return None
    try:
        return Description.of(plain)
    except ValueError as error:
        raise UserError(f"{name} has an invalid description ({error})") from error


def compare_with_data(plain: Any, data: Any, name: str) -> list[int] | None:
    """Compare the data that a checkpoint's network was trained on with the data that it is used on.

    Class names, `image_shape`, mean and standard deviation are compared, but not storage, cropping and augmentation.

    Args:
        plain: the checkpoint's value under `KEY`; a checkpoint without one fits any data.
        data: a data module; one without a description (see `describe`) fits any checkpoint.
        name: option and file, for errors.

    Returns:
        For each class of the data, the index of the network's output; None if the order is the same.

    Raises:
        UserError: other class names, another image shape or another normalisation.
    """
    trained, shown = read_description(plain, name), describe(data)
    return None if trained is None or shown is None else compare(trained, shown, name)


def compare(
    trained: Description, shown: Description, name: str, remedy: str = "", may_know_more: bool = False
) -> list[int] | None:
    """Compare what a network was trained on with what it is used on.

    Args:
        trained: of the network's checkpoint.
        shown: of the data, as the network sees it.
        name: option and file, for errors.
        remedy: a further one, for errors.
        may_know_more: whether the network may have classes that the data has not.

    Returns:
        See `compare_with_data`.

    Raises:
        UserError: see `compare_with_data`.
    """
    if found := differences(trained, shown, may_know_more):
        raise UserError(
            f"{name} was trained with {' and '.join(found)}; make the data like that (class names, "
            f"data.image_size, data.mean, data.std),{remedy} or train its network on this data"
        )
    order = [trained.class_names.index(class_name) for class_name in shown.class_names]
    return None if trained.class_names == shown.class_names else order


def differences(trained: Description, shown: Description, may_know_more: bool = False) -> list[str]:
    """Return the differences between two descriptions, except the order of classes; see `compare`."""
    found: list[tuple[str, Any, Any]] = []
    names, ours = trained.class_names, shown.class_names
    theirs_alone, ours_alone = [n for n in names if n not in {*ours}], [n for n in ours if n not in {*names}]
    # Names that are not unique cannot be matched in another order.
    matched = [name for name in names if name in {*ours}] if may_know_more else names
    if names != ours and (ours_alone or sorted(matched) != sorted(ours) or len({*matched}) < len(matched)):
        none = ", no overlap of class names" if may_know_more and not matched else ""
        found.append(("class_names", listed(theirs_alone or names), listed(ours_alone or ours) + none))
    if trained.image_shape != shown.image_shape:
        found.append(("image_shape", list(trained.image_shape), list(shown.image_shape)))
    if trained.image_shape[0] == shown.image_shape[0]:
        scale = trained.per_channel(trained.std)
        for name in ("mean", "std"):
            theirs, its = getattr(trained, name), getattr(shown, name)
            pairs = zip(trained.per_channel(theirs), shown.per_channel(its), scale, strict=True)
            if any(abs(one - other) > TOLERANCE * unit for one, other, unit in pairs):
                found.append((name, listed([f"{v:.5g}" for v in theirs]), listed([f"{v:.5g}" for v in its])))
    return [f"{name} {theirs} (the data has {its})" for name, theirs, its in found]


def listed(values: Sequence[str]) -> str:
    """Return a text with the first few strings of a list, and the number of others."""
    more = f" and {len(values) - MAX_NAMED} more" if len(values) > MAX_NAMED else ""
    return f"[{', '.join(values[:MAX_NAMED])}{more}]"


def plain_network(network: Any) -> dict[str, Any] | None:
    """Return the config of a network as plain values, for a file; None if it is no such config."""
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
