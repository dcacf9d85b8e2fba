"""Networks that fail while they are built: because of an option that the data determines, or of a download."""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from inspect import isclass
from traceback import walk_tb
from types import FrameType
from typing import Any

from kd_lightning.errors import UserError, one_line
from kd_lightning.models.config import OURS, TORCHVISION, home_of, named, options_of, parts_of
from kd_lightning.models.from_data import Tried
from kd_lightning.models.timm_networks import is_timm

DOWNLOADERS = ("huggingface_hub", "torch.hub", "urllib")
"""Modules that download weights."""


@contextmanager
def without_published_weights(networks: Iterable[Any]) -> Iterator[None]:
    """Build networks without published weights, which a checkpoint replaces and which may not be available.

    The options are restored afterwards, so that the saved config has them.
    """
    changed = []
    for part in [part for network in networks for part in parts_of(network)]:
        options = part.get("init_args") or {}
        for name, none in _options_of_weights(part).items():
            if options.get(name) not in (None, none):
                changed.append((options, name, options[name]))
                options[name] = none
    try:
        yield
    finally:
        for options, name, value in changed:
            options[name] = value


def _options_of_weights(network: Any) -> dict[str, Any]:
    """Return the options of a network that name published weights, with their values for none."""
    if home_of(network).startswith((OURS, TORCHVISION)):
        return {"weights": None}
    return {"pretrained": False, "checkpoint_path": None} if is_timm(network) else {}


def without_rejected(tried: Tried, error: BaseException) -> bool:
    """Remove options that the data determines from the networks that failed because of them.

    Args:
        tried: as returned by `fit_to_data`.
        error: raised while networks were built.

    Returns:
        Whether there were any.
    """
    failed = _failed([network for network, _ in tried], error)
    found = False
    for network, names in tried:
        rejected = [name for name in names if name in str(_cause(error))] if network in failed else []
        for name in rejected:
            names.remove(name)
            network.dict_kwargs.pop(name)
            found = True
        if rejected and not network.dict_kwargs:
            del network["dict_kwargs"]
    return found


def explain(model: Any, error: BaseException) -> None:
    """Raise `UserError` for a network of another library that cannot be built.

    Args:
        model: a config's `model`.
        error: raised while networks were built.

    Raises:
        UserError: it names the network, and what to do where published weights cannot be downloaded.
    """
    cause = _cause(error)
    networks = [network for name in ("net", "teacher") for network in parts_of(options_of(model).get(name))]
    failed = next(iter(_failed(networks, error)), None)
    if failed is None or isinstance(cause, UserError):
        return
    options = {name: value for name, value in options_of(failed).items() if value is not None}
    what = f"{failed.class_path}({', '.join(f'{name}={value!r}' for name, value in options.items())})"
    if any(frame.f_globals.get("__name__", "").startswith(DOWNLOADERS) for frame in _frames(error)):
        raise UserError(
            f"model: {what}: its published weights cannot be downloaded ({one_line(cause)}); fetch them where "
            "there is a connection, and name the file: init_from for the network, teacher_ckpt for a teacher"
        ) from error
    if is_timm(failed):
        raise UserError(f"model: {what} cannot be built ({one_line(cause)})") from error


def _cause(error: BaseException) -> Any:
    while error.__cause__:  # the parser's error has the network's as its cause
        error = error.__cause__
    return error


def _frames(error: BaseException) -> list[FrameType]:
    """Return the stack frames of an error and of its causes."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return frames + (_frames(error.__cause__) if error.__cause__ else [])


def _failed(networks: list[Any], error: BaseException) -> list[Any]:
    """Return the networks of a config in whose class or factory an error was raised."""
    frames = _frames(error)
    made = [(network, frame) for network in networks for frame in frames if _is_made_in(frame, network)]
    own = [network for network, frame in made if _has_options_of(frame, network)]
    return own or [network for network, _ in made]


def _is_made_in(frame: FrameType, network: Any) -> bool:
    """Return whether a stack frame is of a network's class or factory."""
    make = named(network.class_path)
    make = inspect.unwrap(make.__init__ if isclass(make) else make)
    return frame.f_code is getattr(make, "__code__", None)


def _has_options_of(frame: FrameType, network: Any) -> bool:
    """Return whether a class or factory was called with a network's options."""
    given = {name: value for name, value in (network.get("init_args") or {}).items() if type(value) in (bool, int, str)}
    return all(frame.f_locals.get(name, value) == value for name, value in given.items())
