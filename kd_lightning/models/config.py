"""Networks named in a config: which classes and factories are accepted, and their `num_classes` and `weights`."""

import inspect
import sys
from collections.abc import Callable, Iterable
from functools import partial
from inspect import isclass, ismodule
from itertools import zip_longest
from pydoc import locate
from traceback import walk_tb
from types import FrameType
from typing import Any, get_args, get_type_hints

from jsonargparse import ArgumentParser, Namespace
from torch import nn

from kd_lightning.errors import UserError

OURS, TORCHVISION = "kd_lightning.models.", "torchvision.models."
"""Modules whose networks have an option `weights` for published weights."""

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
    if returned is Any or any(isclass(kind) and issubclass(kind, nn.Module) for kind in kinds):
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
    return is_open and set(known) <= set(parameters)


def leave_out_weights(network: Any) -> None:
    """Build a network without published weights, which a checkpoint replaces and which may not be available."""
    for part in _parts(network):
        published = _home(part).startswith((OURS, TORCHVISION))
        if published and (part.get("init_args") or {}).get("weights") is not None:
            part.init_args.weights = None


def _home(network: Any) -> str:
    """Return the module that defines a network's class or factory."""
    return getattr(_named(network.class_path), "__module__", None) or ""


def _named(class_path: str) -> Any:
    """Return the object of a class path; None if there is none."""
    found = locate(class_path)
    if ismodule(found):  # Python 3.12 finds a module before the object of the same name in its package
        package, _, name = class_path.rpartition(".")
        return getattr(locate(package), name)
    return found


def _parts(network: Any) -> list[Any]:
    """Return a network's config in a list, or those of the networks inside it; empty without a network."""
    if network is None:
        return []
    if isinstance(network, nn.Module):
        raise UserError(
            f"model: {type(network).__name__} found, an instance; a class or a function that makes it expected"
        )
    inner = [part for name in WRAPPED for part in _listed(_options(network).get(name)) if hasattr(part, "class_path")]
    return [part for each in inner for part in _parts(each)] or [network]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def fit_to_classes(model: Any, given: Any, count: Callable[[], int]) -> list[Any]:
    """Set the `num_classes` of each network that takes it, and that the user has not set, to that of the data.

    Args:
        model: a config's `model`, with all defaults.
        given: the same with the user's options alone; None if there are none.
        count: returns the number of classes, 0 if the data does not know it before setup; called only if needed.

    Returns:
        Networks with `**kwargs`, which may turn out not to take it; see `without_classes`.

    Raises:
        UserError: published weights for other classes than the data has.
    """
    unset = _unset(model, given)
    classes = count() if unset else 0
    tried = []
    for network in unset if classes else ():  # a user's data module may know it only after setup
        options = network.get("init_args") or {}
        if _home(network).startswith(TORCHVISION) and options.get("weights"):
            raise UserError(
                f"model: {network.class_path} with weights has 1000 classes, the data {classes}; "
                "kd_lightning.models.pretrained gives such a network a head of its own"
            )
        if "num_classes" in options:
            options["num_classes"] = classes
        else:
            network.dict_kwargs = {**(network.get("dict_kwargs") or {}), "num_classes": classes}
            tried.append(network)
    return tried


def without_classes(tried: list[Any], error: BaseException) -> bool:
    """Remove `num_classes` from the networks that failed because of it.

    Args:
        tried: as returned by `fit_to_classes`.
        error: raised while networks were built.

    Returns:
        Whether there were any.
    """
    while error.__cause__:  # the parser's error has the network's as its cause
        error = error.__cause__
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    failed = [network for network in tried if any(_is_made_in(frame, network) for frame in frames)]
    if "num_classes" not in str(error) or not failed:
        return False
    for network in failed:
        tried.remove(network)
        network.dict_kwargs.pop("num_classes")
        if not network.dict_kwargs:
            del network["dict_kwargs"]
    return True


def _is_made_in(frame: FrameType, network: Any) -> bool:
    """Return whether a stack frame is of a network's class or factory, called with the network's options."""
    make = _named(network.class_path)
    make = inspect.unwrap(make.__init__ if isclass(make) else make)
    if frame.f_code is not getattr(make, "__code__", None):
        return False
    given = {name: value for name, value in (network.get("init_args") or {}).items() if type(value) in (bool, int, str)}
    return all(frame.f_locals.get(name, value) == value for name, value in given.items())


def leave_out_classes(model: Any, given: Any) -> None:
    """Remove every `num_classes` that the user has not set from a config's `model`; see `fit_to_classes`."""
    for network in _unset(model, given):
        if "num_classes" in (network.get("init_args") or {}):
            del network.init_args["num_classes"]


def _unset(model: Any, given: Any) -> list[Any]:
    """Return the networks of a config that take `num_classes`, and for which the user has set none."""
    unset = []
    for name in ("net", "teacher"):
        networks, theirs = _parts(_options(model).get(name)), _parts(_options(given).get(name))
        for network, users in zip_longest(networks, theirs[: len(networks)]):
            if "num_classes" not in _options(users) and _takes_classes(network):
                unset.append(network)
    return unset


def _takes_classes(network: Any) -> bool:
    known = "num_classes" in _options(network)
    return known or takes_any_options(_named(network.class_path), _defaults(network.class_path))


def _options(config: Any) -> dict[str, Any]:
    """Return all options of a config entry; none of one without options."""
    parts = [config.get(name) for name in ("init_args", "dict_kwargs")] if hasattr(config, "get") else []
    plain = (vars(part) if isinstance(part, Namespace) else part or {} for part in parts)
    return {name: value for part in plain for name, value in part.items()}


def _defaults(class_path: str) -> dict[str, Any]:
    """Return the options of a network's class or factory with their defaults."""
    make: Any = _named(class_path)
    parser = ArgumentParser()
    if isclass(make):
        parser.add_class_arguments(make, fail_untyped=False)
    else:
        function, skipped = as_function(make)
        parser.add_function_arguments(function, skip=skipped, fail_untyped=False)
    return parser.get_defaults().as_dict()
