"""Rebuild a network from the description in a file, which may be from anyone and is not trusted."""

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
from kd_lightning.models.config import TIMM, TORCHVISION
from kd_lightning.utils.extras import need_packages

PUBLISHED = ("weights", "pretrained", "weights_backbone")
"""Options that would download weights, which the file's weights replace."""

TIMM_SOURCES = ("pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
"""Further options of timm that name files and addresses of published weights."""

TRUSTED = "where you trust it, name its config: --config FILE"
"""Advice for a file that names what is not allowed."""

MAX_OPTIONS, MAX_SUM, MAX_TENSORS = 10_000, 2**24, 5_000
"""Bounds on a network: values in its options, the sum of integers among them, and its tensors."""

MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
"""Functions that allocate a tensor of a given size."""


def rebuild(recorded: Any, content: Any, file: Path, option: str) -> nn.Module:
    """Build the network that a file describes, and load the file's weights.

    Only networks of `kd_lightning.models`, classification networks of `torchvision.models` and networks of timm's own
    list are built, from numbers, strings and lists of them: nothing that a file names is imported, and no string
    becomes a function.

    Args:
        recorded: {"class_path", "init_args", "dict_kwargs"}, as in a config.
        content: content of the file of weights, as returned by `read_weights`.
        file: the file of weights.
        option: the option that named the file, for errors.

    Raises:
        UserError: another network, options that do not fit, or weights that do not.
    """
    recorded = recorded if isinstance(recorded, dict) else {}
    class_path = recorded.get("class_path")
    make = _maker(recorded)
    if make is None:
        raise UserError(
            f"{option}: the network of {file} is {class_path}, and a file may name those of kd_lightning.models, "
            f"torchvision.models and timm alone that classify images; {TRUSTED}"
        )
    options = _options(make, recorded, f"{option}: {class_path} of {file}")
    try:
        weights = fitting_weights(_planned(make, options), content, file, option)
        network = make(**options)
    except UserError:
        raise
    except Exception as error:  # the options may be from anyone
        raise UserError(f"{option}: {class_path} of {file} cannot be built ({one_line(error)})") from error
    network.load_state_dict(weights)
    return network.eval()


def ours(class_path: Any, package: ModuleType) -> Any:
    """Return what a class path names in one of this project's packages, else None; import nothing."""
    module, _, name = str(class_path).rpartition(".")
    within = module in ("kd_lightning", package.__name__) or module.startswith(f"{package.__name__}.")
    return getattr(package, name) if within and name in package.__all__ else None


def plain_options(recorded: dict[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    """Return the options that a file records for a class, except those in `left_out`.

    Raises:
        UserError: a value is no number, string or list of them.
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


def _maker(recorded: dict[str, Any]) -> Callable[..., nn.Module] | None:
    """Return the class or factory of a network by its class path, else None."""
    class_path = recorded.get("class_path")
    module, _, name = str(class_path).rpartition(".")
    if f"{module}.".startswith(TIMM):
        return _maker_of_timm(module, name, recorded)
    if not f"{module}.".startswith(TORCHVISION):
        return ours(class_path, models)
    found = getattr(torchvision.models, name, None)
    if name in list_models(module=torchvision.models):
        found = get_model_builder(name)
    elif not (inspect.isclass(found) and issubclass(found, nn.Module)):
        return None
    return found if f"{module}." == TORCHVISION or module == found.__module__ else None


def _maker_of_timm(module: str, name: str, recorded: dict[str, Any]) -> Callable[..., nn.Module] | None:
    """Return the function of a network that timm lists: not one of the hub or of a folder, which would be read."""
    need_packages("timm")
    import timm

    modules = ("timm", "timm.models", timm.create_model.__module__)
    is_named = name == timm.create_model.__name__ and module in modules
    if is_named:
        name = str(plain_options(recorded, ()).get("model_name")).partition(".")[0]  # without the name of weights
    make = timm.models.model_entrypoint(name) if timm.is_model(name) else None
    return make if make is None or is_named or module in (*modules, make.__module__) else None


def _options(make: Callable[..., nn.Module], recorded: dict[str, Any], what: str) -> dict[str, Any]:
    """Return the options of a network.

    Raises:
        UserError: one of them names code.
    """
    is_timm = make.__module__.startswith(TIMM)
    options = plain_options(recorded, (*PUBLISHED, *(("model_name", *TIMM_SOURCES) if is_timm else ())))
    if is_timm:  # as `timm.create_model` does
        options = {name: value for name, value in options.items() if value is not None}
    parameters = inspect.signature(make).parameters
    for name in {*options} & {*parameters}:
        parameter = parameters[name]
        if not isinstance(options[name], str) or not _is_code(parameter.annotation):
            continue
        if options[name] != str(parameter.default):  # a checkpoint stores a default that is code as text
            raise UserError(f"{what}: {name} found to be {options[name]}, which is code; {TRUSTED}")
        del options[name]
    return {**options, "weights": None} if "weights" in parameters else options


def _is_code(annotation: Any) -> bool:
    """Return whether an option takes classes, functions or networks."""
    kinds = (annotation, *get_args(annotation))
    return any(get_origin(kind) in (type, Callable) or kind is nn.Module for kind in kinds)


def _is_plain(value: Any) -> bool:
    """Return whether a value is a number, a string or a list of them, and small: nested lists may repeat each other."""
    left, total, parts = MAX_OPTIONS, 0, [value]
    while parts and left and total <= MAX_SUM:
        part, left = parts.pop(), left - 1
        if isinstance(part, (list, tuple)):
            parts += part[: left + 1]
        elif not (part is None or type(part) in (bool, int, float, str)):
            return False
        total += abs(part) if type(part) is int else 0
    return not parts and total <= MAX_SUM


def _planned(make: Callable[..., nn.Module], options: dict[str, Any]) -> nn.Module:
    """Return the network on the meta device, which takes no memory."""
    try:
        with torch.device("meta"), _Plan():
            return make(**options)
    except RuntimeError:  # it computes with tensors while it is built
        with _Plan("meta"):
            return make(**options)


class _Plan(TorchFunctionMode):
    """Limits the number of tensors that a network allocates.

    Args:
        device: overrides the device of all tensors.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.device = {} if device is None else {"device": device}
        self.left = MAX_TENSORS

    def __torch_function__(
        self, func: Any, types: Collection[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch; raise `ValueError` after too many tensors."""
        if func not in MAKERS:
            return func(*args, **(kwargs or {}))
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"more than {MAX_TENSORS} tensors")
        return func(*args, **{**(kwargs or {}), **self.device})
