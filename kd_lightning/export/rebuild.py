"""A network from what a file says of it: a file may be anybody's, so it has little to say."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin

import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision.models import get_model_builder, list_models

from kd_lightning import models
from kd_lightning.checkpoints.weights import fitting_weights
from kd_lightning.errors import UserError, one_line
from kd_lightning.models.config import TORCHVISION

PUBLISHED = ("weights", "pretrained", "weights_backbone")
"""Options that would fetch weights, whose place the file's own take."""

TRUSTED = "where you trust it, name its config: --config FILE"
"""The way out where a file names what it may not."""

MOST_OPTIONS, LARGEST_SUM, MOST_TENSORS = 10_000, 2**24, 5_000
"""Numbers and words among the options of a network, what whole numbers among them add up to, and the tensors it has."""

MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
"""Functions that take memory for a tensor of a given size."""


def rebuild(recorded: Any, content: Any, file: Path, option: str) -> nn.Module:
    """Make the network that a file names, with the file's weights.

    Made are networks of `kd_lightning.models` and classification networks of `torchvision.models` alone, by function or
    class, from numbers, words and lists of them: nothing that a file says is imported, and no word in it becomes a
    function.

    Args:
        recorded: {"class_path", "init_args", "dict_kwargs"}, as a config has it.
        content: what `read_weights` gave of the file that holds the weights.
        file: that file.
        option: what the user set it with, for errors.

    Raises:
        UserError: another network, options that do not fit, or weights that do not.
    """
    recorded = recorded if isinstance(recorded, dict) else {}
    class_path = recorded.get("class_path")
    make = _maker(class_path)
    if make is None:
        raise UserError(
            f"{option}: the network of {file} is {class_path}, and a file may name those of kd_lightning.models and "
            f"torchvision.models alone that classify images; {TRUSTED}"
        )
    options = _options(make, recorded, f"{option}: {class_path} of {file}")
    try:
        weights = fitting_weights(_planned(make, options), content, file, option)
        network = make(**options)
    except UserError:
        raise
    except Exception as error:  # options that anybody wrote
        raise UserError(f"{option}: {class_path} of {file} cannot be made as it says ({one_line(error)})") from error
    network.load_state_dict(weights)
    return network.eval()


def ours(class_path: Any, package: ModuleType) -> Any:
    """What a class path names of one of this project's packages; None of all else. Nothing is imported for it."""
    module, _, name = str(class_path).rpartition(".")
    within = module in ("kd_lightning", package.__name__) or module.startswith(f"{package.__name__}.")
    return getattr(package, name) if within and name in package.__all__ else None


def plain_options(recorded: dict[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    """The options that a file records for a class, those left out apart: numbers, words and lists of them.

    Raises:
        UserError: one of them is something else, of which a parser might make anything.
    """
    given = [recorded.get(name) or {} for name in ("init_args", "dict_kwargs")]
    options = {str(name): value for part in given if isinstance(part, dict) for name, value in part.items()}
    options = {name: value for name, value in options.items() if name not in left_out}
    if wrong := [name for name, value in options.items() if not _is_plain(value)]:
        raise UserError(
            f"{wrong[0]}: something else found among the options of {recorded.get('class_path')}, a number, a word or "
            "a list of them expected, none of them huge"
        )
    return options


def _maker(class_path: Any) -> Callable[..., nn.Module] | None:
    """A network's class, or the function that makes it, by its path or that of the module that defines it."""
    module, _, name = str(class_path).rpartition(".")
    if not f"{module}.".startswith(TORCHVISION):
        return ours(class_path, models)
    found = getattr(torchvision.models, name, None)
    if name in list_models(module=torchvision.models):
        found = get_model_builder(name)
    elif not (inspect.isclass(found) and issubclass(found, nn.Module)):
        return None
    return found if f"{module}." == TORCHVISION or module == found.__module__ else None


def _options(make: Callable[..., nn.Module], recorded: dict[str, Any], what: str) -> dict[str, Any]:
    """The options to make a network with.

    Raises:
        UserError: one of them stands for code.
    """
    options = plain_options(recorded, PUBLISHED)
    parameters = inspect.signature(make).parameters
    for name in {*options} & {*parameters}:
        parameter = parameters[name]
        if not isinstance(options[name], str) or not _is_code(parameter.annotation):
            continue
        if options[name] != str(parameter.default):  # as which a checkpoint keeps a default that is code
            raise UserError(f"{what}: {name} found to be {options[name]}, which is code; {TRUSTED}")
        del options[name]
    return {**options, "weights": None} if "weights" in parameters else options


def _is_code(annotation: Any) -> bool:
    """Whether an option's values are classes, functions or networks."""
    kinds = (annotation, *get_args(annotation))
    return any(get_origin(kind) in (type, Callable) or kind is nn.Module for kind in kinds)


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, a word or a list of them.

    Lists may hold each other, and fan out without end: the value is small, too.
    """
    left, total, parts = MOST_OPTIONS, 0, [value]
    while parts and left and total <= LARGEST_SUM:
        part, left = parts.pop(), left - 1
        if isinstance(part, (list, tuple)):
            parts += part[: left + 1]
        elif not (part is None or type(part) in (bool, int, float, str)):
            return False
        total += abs(part) if type(part) is int else 0
    return not parts and total <= LARGEST_SUM


def _planned(make: Callable[..., nn.Module], options: dict[str, Any]) -> nn.Module:
    """The network's names and shapes, without its memory."""
    try:
        with torch.device("meta"), _Plan():
            return make(**options)
    except RuntimeError:  # it counts on numbers while it is made
        with _Plan("meta"):
            return make(**options)


class _Plan(TorchFunctionMode):
    """Counts the tensors of a given size that a network is made of.

    Args:
        device: where they are made, whatever is said; by default where it is said.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.device = {} if device is None else {"device": device}
        self.left = MOST_TENSORS

    def __torch_function__(
        self, func: Any, types: Collection[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch's; raise `ValueError` after too many tensors."""
        if func not in MAKERS:
            return func(*args, **(kwargs or {}))
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"more than {MOST_TENSORS} tensors")
        return func(*args, **{**(kwargs or {}), **self.device})
