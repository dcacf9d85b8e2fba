"""A network from what a file says of it: a file may be anybody's, so it has little to say."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import get_model_builder, list_models

from kd_lightning import models
from kd_lightning.errors import UserError, one_line
from kd_lightning.network_options import TORCHVISION
from kd_lightning.teachers.weights import fitting_weights

PUBLISHED = ("weights", "pretrained", "weights_backbone")
"""Options that would fetch weights, whose place the file's own take."""


def rebuild(recorded: Any, content: Any, file: Path, option: str) -> nn.Module:
    """Make the network that a file names, with the file's weights.

    Made are networks of `kd_lightning.models` and classification networks of `torchvision.models` alone, from numbers,
    words and lists of them: nothing that a file says is imported, and no word in it becomes a function.

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
            "torchvision.models alone; where you trust it, name its config: --config FILE"
        )
    options = _options(make, recorded)
    try:
        planned = _planned(make, options)
        if planned is not None:  # what does not fit takes no memory
            fitting_weights(planned, content, file, option)
        network = make(**options)
    except UserError:
        raise
    except Exception as error:  # options that anybody wrote
        raise UserError(f"{option}: {class_path} of {file} cannot be made as it says ({one_line(error)})") from error
    network.load_state_dict(fitting_weights(network, content, file, option))
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
            "a list of them expected"
        )
    return options


def _maker(class_path: Any) -> Callable[..., nn.Module] | None:
    module, _, name = str(class_path).rpartition(".")
    if f"{module}." == TORCHVISION and name in list_models(module=torchvision.models):
        return get_model_builder(name)
    return ours(class_path, models)


def _options(make: Callable[..., nn.Module], recorded: dict[str, Any]) -> dict[str, Any]:
    options = plain_options(recorded, PUBLISHED)
    return {**options, "weights": None} if "weights" in inspect.signature(make).parameters else options


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _planned(make: Callable[..., nn.Module], options: dict[str, Any]) -> nn.Module | None:
    """The network's names and shapes, without its memory; None of one that counts on numbers while it is made."""
    try:
        with torch.device("meta"):
            return make(**options)
    except RuntimeError:
        return None
