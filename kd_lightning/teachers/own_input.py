"""A network that reads images of another size and normalisation than the data's."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from kd_lightning.checkpoints.description import Description, read_description
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.network_output import logits_of
from kd_lightning.utils.precision import at_least_float32
from kd_lightning.utils.resize import resize

INTERPOLATIONS = ("bilinear", "bicubic")


class InputFormat(NamedTuple):
    """Size and normalisation of the images that a network reads; None where they are not known.

    Attributes:
        size: height and width, in pixels.
        mean: subtracted from pixels in [0, 1]; one value per channel, or one for all.
        std: divisor after that.
        interpolation: how images are resized, `bilinear` or `bicubic`.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None

    def or_else(self, other: "InputFormat") -> "InputFormat":
        """Return this format, with what is not known from another one; mean and std belong together."""
        mean, std = other[1:3] if self.mean is None else self[1:3]
        return InputFormat(self.size or other.size, mean, std, self.interpolation or other.interpolation)

    def described(self, shown: Description) -> Description:
        """Return the description of some data with its images in this format."""
        size, mean, std, interpolation = self
        channels = len(mean) if mean and len(mean) > 1 else shown.image_shape[0]
        return replace(
            shown,
            image_shape=(channels, *(size or shown.image_shape[1:])),
            stored_shape=(channels, *shown.stored_shape[1:]),
            mean=mean or shown.mean,
            std=std or shown.std,
            interpolation=interpolation,
        )

    @classmethod
    def of_network(cls, network: nn.Module) -> "InputFormat":
        """Return what a network of timm states of its published weights; nothing of any other network."""
        stated: Any = getattr(network, "pretrained_cfg", None)
        try:
            read = tuple(stated["input_size"][1:]), tuple(stated["mean"]), tuple(stated["std"])
        except (TypeError, LookupError):
            return cls()
        interpolation = stated.get("interpolation")
        return cls(*read, interpolation if interpolation in INTERPOLATIONS else None)


class OwnInput(nn.Module):
    """Let a network read images as it was trained on them, at another size, mean and std than the data's.

    The data's normalisation is undone and the network's applied in its place; then images are resized, with
    antialiasing where they shrink. Mean and std of the data are taken from the run. Grey images are repeated for a
    network whose `mean` has three values.

    As `teacher` of a `DistillModule`, or as a member of an `EnsembleTeacher`, its `teacher_ckpt` holds the weights of
    `network`, and `teacher_layer` of a feature is a layer of `network`.

    Args:
        network: images (B, C, H, W) to its outputs.
        image_size: height and width that the network reads, in pixels, or one number for both.
        mean: subtracted from pixels in [0, 1] in its training; one value per channel, or one for all.
        std: divisor after that, above 0; given together with `mean`.
        interpolation: how images are resized.

    What is not given is taken from the network's checkpoint, if it is one of this package; else from what timm states
    of the network's published weights; else from the data, and `bilinear`.

    Raises:
        UserError: a number is out of range, or nothing differs from the data: none of the three is given or stated.
    """

    scale: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        image_size: int | tuple[int, int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: Literal["bilinear", "bicubic"] | None = None,
    ) -> None:
        super().__init__()
        size = _both_sides(image_size)
        if size and min(size) < 1:
            raise UserError(f"image_size: {image_size} found, at least 1 pixel expected")
        if (mean is None) != (std is None):
            raise UserError("mean and std: one of them found, both or neither expected")
        if std is not None and not all(value > 0 for value in std):
            raise UserError(f"std: {list(std)} found, values above 0 expected")
        if interpolation not in (None, *INTERPOLATIONS):
            raise UserError(f"interpolation: {interpolation} found, {' or '.join(INTERPOLATIONS)} expected")
        self.network = network
        normalisation = None if mean is None else tuple(mean), None if std is None else tuple(std)
        self.given = InputFormat(size, *normalisation, interpolation)
        self.format = self.given
        """What the network reads; complete after `prepare`."""
        for name in ("scale", "shift"):  # buffers move with the network, and are not among the weights of a file
            self.register_buffer(name, None, persistent=False)
        self._is_prepared = False

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the network, so that its layers have their own names here, too."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network" or name.startswith("__"):
                raise
            return getattr(self.network, name)

    def extra_repr(self) -> str:
        """Return size, mean, std and interpolation."""
        return ", ".join(f"{name}={value}" for name, value in self.format._asdict().items() if value)

    def prepare(self, data: Any, stated: Description | None = None) -> None:
        """Take the normalisation to undo from the run's data, and what is not given from checkpoint or network.

        Args:
            data: a data module with `mean` and `std`.
            stated: description of the network's checkpoint; None without one.

        Raises:
            UserError: the data has no mean and std, or the network's are not known.
        """
        if getattr(data, "mean", None) is None or getattr(data, "std", None) is None:
            kind = type(data).__name__ if data is not None else "a loader"
            raise UserError(f"data: {kind} states no mean and std, both expected for OwnInput, which undoes them")
        known = self.given.or_else(InputFormat() if stated is None else _format_of(stated))
        self.format = known.or_else(InputFormat.of_network(self.network))
        if self.format[:3] == InputFormat()[:3]:
            raise UserError(
                f"OwnInput: neither the checkpoint nor {type(self.network).__name__} states what it reads, image_size, "
                "or mean and std, expected"
            )
        theirs = [torch.as_tensor(it, dtype=torch.float64).flatten() for it in (data.mean, data.std)]
        ours = [torch.tensor(it, dtype=torch.float64) for it in self.format[1:3] if it]
        if ours and len({len(it) for it in (*theirs, *ours)} - {1}) > 1:
            raise UserError(f"mean and std: {len(ours[0])} values found, 1 or {len(theirs[0])} expected (the channels)")
        self.scale = self.shift = None
        if ours and not all(torch.equal(*torch.broadcast_tensors(a, b)) for a, b in zip(theirs, ours, strict=True)):
            (mean, std), (own_mean, own_std) = theirs, ours
            self.scale = (std / own_std).float().view(-1, 1, 1)
            self.shift = ((mean - own_mean) / own_std).float().view(-1, 1, 1)
        self._is_prepared = True

    def forward(self, image: Tensor) -> Any:
        """Return the network's outputs for images (B, C, H, W) in the data's normalisation."""
        if not self._is_prepared:
            raise UserError("OwnInput: the data's normalisation is unknown before setup; call its prepare(data) first")
        return logits_of(self.network(self.convert(image)))

    def convert(self, image: Tensor) -> Tensor:
        """Return images (B, C, H, W) in the network's normalisation and size, of the same dtype and memory format."""
        is_last = not image.is_contiguous()
        converted = at_least_float32(image)
        if self.scale is not None and self.shift is not None:
            converted = converted * self.scale.to(converted) + self.shift.to(converted)
        size = self.format.size or (image.shape[2], image.shape[3])
        converted = resize(converted, size, self.format.interpolation or INTERPOLATIONS[0])
        memory_format = torch.channels_last if is_last else torch.contiguous_format
        return converted.to(image.dtype).contiguous(memory_format=memory_format)


def read_trained(plain: Any, network: nn.Module, name: str) -> Description | None:
    """Read from a checkpoint what its network was trained on, in the format that the network itself read.

    Args:
        plain: the file's value under `KEY`. If it names an `OwnInput`, its images are those before the conversion.
        network: without `OwnInput`.
        name: option and file, for errors.

    Raises:
        UserError: the description is malformed.
    """
    trained = read_description(plain, name)
    recorded = plain.get("network") if isinstance(plain, dict) else None
    if trained is None or not isinstance(recorded, dict) or not str(recorded.get("class_path")).endswith(".OwnInput"):
        return trained
    try:
        options = recorded.get("init_args") or {}
        mean, std = (None if options.get(key) is None else tuple(options[key]) for key in ("mean", "std"))
        interpolation = options.get("interpolation")
        if interpolation not in (None, *INTERPOLATIONS):
            raise ValueError(f"interpolation: {interpolation} found, {' or '.join(INTERPOLATIONS)} expected")
        read = InputFormat(_both_sides(options.get("image_size")), mean, std, interpolation)
        return read.or_else(InputFormat.of_network(network)).described(trained)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{name} has an invalid description ({one_line(error)})") from error


def _both_sides(size: Any) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size and (size[0], size[1])


def _format_of(stated: Description) -> InputFormat:
    _, height, width = stated.image_shape
    return InputFormat((height, width), stated.mean, stated.std, stated.interpolation)


def prepare_inputs(network: nn.Module, data: Any, stated: Description | None = None) -> None:
    """Prepare each `OwnInput` in a network for the data of a run; see `OwnInput.prepare`."""
    for module in network.modules():
        if isinstance(module, OwnInput):
            module.prepare(data, stated)


def without_own_input(network: nn.Module) -> nn.Module:
    """Return the network that weights in a file belong to: that inside an `OwnInput`, or the network itself."""
    return network.network if isinstance(network, OwnInput) else network
