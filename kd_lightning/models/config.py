"""Networks named in a config: which classes and factories are accepted, and their options."""

import inspect
import sys
from collections.abc import Iterable
from functools import partial
from inspect import isclass, ismodule
from pydoc import locate
from typing import Any, TypeVar, get_args, get_type_hints

from jsonargparse import ArgumentParser, Namespace
from torch import nn

from kd_lightning.errors import UserError

OURS, TORCHVISION, TIMM, TRANSFORMERS = "kd_lightning.models.", "torchvision.models.", "timm.", "transformers."
"""Modules of networks with published weights."""

WRAPPED = ("members", "network")
"""Options of networks that consist of other networks: `EnsembleTeacher` and `OwnInput`, and any of a user's own."""


def is_network_factory(value: Any) -> bool:
    """Return whether a function makes networks.

    Raises:
        UserError: an object that is neither a class nor such a function.
    """
    if isclass(value):
        return False
    if problem := _why_not(value):
        name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
        raise UserError(
            f"{name} {problem}: a class of networks (nn.Module) or a function that makes one expected, such as "
            "def net(num_classes=10) -> torch.nn.Module"
        )
    return True


def makes_networks(make: Any) -> bool:
    """Return whether a config names a class of networks, or a function that may return one."""
    return issubclass(make, nn.Module) if isclass(make) else not _why_not(make)


def _why_not(make: Any) -> str:
    """Return why an object cannot make networks; empty for a function that may return one by its annotation."""
    if isinstance(make, partial):
        return "is a functools.partial, whose options are unknown"
    function = inspect.unwrap(make) if callable(make) else None
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        return "is neither a class nor a function in Python"
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        return "is a coroutine or a generator"
    if function.__module__.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return "is a function of Python's standard library"
    if [*inspect.signature(make).parameters][:1] == ["self"]:
        return "is a method of an object"
    try:
        returned = get_type_hints(function).get("return", Any)
    except Exception:  # names that only type checkers import
        return ""
    kinds = get_args(returned) or (returned,)
    unknown = returned is Any or isinstance(returned, TypeVar)
    if unknown or any(isclass(kind) and issubclass(kind, nn.Module) for kind in kinds):
        return ""
    return f"returns {getattr(returned, '__name__', returned)} by its annotation"


def as_function(make: Any) -> tuple[Any, set[str | int]]:
    """Return the function of a factory, and the parameters that are no options: the class of a classmethod.

    jsonargparse would skip the first option of a classmethod.
    """
    if not inspect.ismethod(make):
        return make, set()
    return make.__func__, {next(iter(inspect.signature(make.__func__).parameters))}


def takes_any_options(make: Any, known: Iterable[str]) -> bool:
    """Return whether a network's class or factory takes `**kwargs` of unknown options.

    Args:
        make: the class or factory.
        known: the options that a parser has found, also in functions that `**kwargs` is passed to.
    """
    if not makes_networks(make):
        return False
    parameters = inspect.signature(make).parameters
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    # `from_pretrained` passes most of its options on to a config that it reads from a file.
    return is_open and (set(known) <= set(parameters) or str(getattr(make, "__module__", "")).startswith(TRANSFORMERS))


def home_of(network: Any) -> str:
    """Return the module that defines a network's class or factory."""
    return getattr(named(network.class_path), "__module__", None) or ""


def named(class_path: str) -> Any:
    """Return the object of a class path; None if there is none."""
    found = locate(class_path)
    if ismodule(found):  # Python 3.12 finds a module before the object of the same name in its package
        package, _, name = class_path.rpartition(".")
        return getattr(locate(package), name)
    return found


def parts_of(network: Any) -> list[Any]:
    """Return a network's config in a list, or those of the networks inside it; empty without a network."""
    if network is None:
        return []
    if isinstance(network, nn.Module):
        raise UserError(
            f"model: {type(network).__name__} found, an instance; a class or a function that makes it expected"
        )
    return [part for each in inner_networks(network) for part in parts_of(each)] or [network]


def inner_networks(network: Any) -> list[Any]:
    """Return the networks inside one, as an ensemble's members; empty for a plain network."""
    options = options_of(network)
    if not options:
        return []
    if home_of(network).startswith(TRANSFORMERS):  # classes, channels and size are options of its config
        return [part for part in [options.get("config")] if hasattr(part, "class_path")]
    return [part for name in WRAPPED for part in _listed(options.get(name)) if hasattr(part, "class_path")]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def options_of(config: Any) -> dict[str, Any]:
    """Return all options of a config entry; none of one without options."""
    parts = [config.get(name) for name in ("init_args", "dict_kwargs")] if hasattr(config, "get") else []
    plain = (vars(part) if isinstance(part, Namespace) else part or {} for part in parts)
    return {name: value for part in plain for name, value in part.items()}


def defaults_of(class_path: str) -> dict[str, Any]:
    """Return the options of a network's class or factory with their defaults."""
    make: Any = named(class_path)
    parser = ArgumentParser()
    if isclass(make):
        parser.add_class_arguments(make, fail_untyped=False)
    else:
        function, skipped = as_function(make)
        parser.add_function_arguments(function, skip=skipped, fail_untyped=False)
    return parser.get_defaults().as_dict()
