"""Options of a network that the data determines: its classes, and the channels and size of its images."""

from collections.abc import Callable, Iterator
from inspect import isclass
from itertools import zip_longest
from typing import Any

from kd_lightning.errors import UserError
from kd_lightning.models.config import (
    TORCHVISION,
    TRANSFORMERS,
    defaults_of,
    home_of,
    inner_networks,
    named,
    options_of,
    parts_of,
    takes_any_options,
)
from kd_lightning.models.timm_networks import check_name, is_timm, needs_image_size

DETERMINED = ("num_classes", "num_labels", "in_chans", "img_size")
"""Names of the options: `num_classes` of most libraries, `num_labels` of Hugging Face, the others of timm."""

CONFIG = ("id2label", "num_channels", "image_size")
"""Options of a Hugging Face config that the data determines."""

ROLES = ("net", "teacher")
"""Options of a module that are networks."""

Tried = list[tuple[Any, list[str]]]
"""Networks with options that they may turn out not to take."""


def fit_to_data(model: Any, given: Any, make_data: Callable[[], Any]) -> Tried:
    """Set the options of each network that the data determines, where it takes them and the user has not set them.

    Args:
        model: a config's `model`, with all defaults.
        given: the same with the user's options alone; None if there are none.
        make_data: returns the data module; called only if needed. One of a user may know its classes only after setup.

    Returns:
        Networks with `**kwargs` and the options that were tried; see `without_rejected`.

    Raises:
        UserError: published weights for other classes than the data has, or no such network of timm.
    """
    unset = _unset(model, given)
    values = _values(make_data()) if unset else {}
    inputs = {place: own for role in ROLES for place, own in _own_inputs(options_of(model).get(role))}
    tried: Tried = []
    for network, names in unset:
        options = network.get("init_args") or {}
        classes = values.get("num_classes")
        if "num_classes" in names and classes and home_of(network).startswith(TORCHVISION) and options.get("weights"):
            raise UserError(
                f"model: {network.class_path} with weights has 1000 classes, the data {classes}; "
                "kd_lightning.models.pretrained gives such a network a head of its own"
            )
        its = values if id(network) not in inputs else _within(inputs[id(network)], values)
        known = {name: its[name] for name in names if name in its}
        declared = {name: value for name, value in known.items() if name in options}
        for name, value in declared.items():
            options[name] = value
        if further := {name: value for name, value in known.items() if name not in declared}:
            network.dict_kwargs = {**(network.get("dict_kwargs") or {}), **further}
            tried.append((network, [*further]))
    return tried


def _values(data: Any) -> dict[str, Any]:
    """Return the options by name; without those that a data module does not know before setup."""
    channels, height, width = getattr(data, "image_shape", None) or (None, None, None)
    side = height if height == width else (height, width)
    names = getattr(data, "class_names", None) or range(getattr(data, "num_classes", 0))
    values = {"num_classes": len(names), "in_chans": channels, "img_size": side}
    values |= {"num_labels": len(names), "id2label": dict(enumerate(map(str, names)))}
    values |= {"num_channels": channels, "image_size": side}
    return {name: value for name, value in values.items() if value}


def _own_inputs(network: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return the options of each `OwnInput`, with the `id` of the config of the network inside."""
    for inner in inner_networks(network):
        if "network" in options_of(network):
            yield id(inner), options_of(network)
        yield from _own_inputs(inner)


def _within(own: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return the options that the data determines of a network inside an `OwnInput` with some options.

    Channels and size that are not given there are those that the network was published for, its own defaults.
    """
    within = {name: values.get(name) for name in ("num_classes", "num_labels", "id2label")}
    within |= dict.fromkeys(("img_size", "image_size"), own.get("image_size"))
    if len(own.get("mean") or ()) == 1:  # grey images are repeated for several
        within |= {name: values.get(name) for name in ("in_chans", "num_channels")}
    return {name: value for name, value in within.items() if value}


def leave_out_determined(model: Any, given: Any) -> None:
    """Remove the options that the data determines, and that the user has not set, from a config's `model`."""
    for network, names in _unset(model, given):
        for name in names:
            if name in (network.get("init_args") or {}):
                del network.init_args[name]


def _unset(model: Any, given: Any) -> Tried:
    """Return the networks of a config with the options that they take, and that the user has not set."""
    unset = []
    for role in ROLES:
        as_built = role == "teacher" and not options_of(model).get("teacher_ckpt")
        has_classes = role == "teacher" and options_of(model).get("teacher_classes") is not None
        networks, theirs = parts_of(options_of(model).get(role)), parts_of(options_of(given).get(role))
        for network, users in zip_longest(networks, theirs[: len(networks)]):
            names = [name for name in _taken(network) if name not in options_of(users)]
            if has_classes or (as_built and _is_published(network)):  # classes of its own
                names = [name for name in names if name not in ("num_classes", "num_labels", "id2label")]
            if names:
                unset.append((network, names))
    return unset


def _is_published(network: Any) -> bool:
    """Return whether a network is built with all of its published weights, those of the last layer too."""
    options = options_of(network)
    return options.get("pretrained") is True or bool(
        home_of(network).startswith(TORCHVISION) and options.get("weights")
    )


def _taken(network: Any) -> list[str]:
    """Return the options that a network takes, or may take."""
    known = options_of(network)
    taken = [name for name in DETERMINED if name in known]
    if home_of(network).startswith(TRANSFORMERS):
        is_config = isclass(named(network.class_path))
        return [name for name in CONFIG if name in known] if is_config else [*dict.fromkeys([*taken, "num_labels"])]
    if takes_any_options(named(network.class_path), defaults_of(network.class_path)):
        taken += ["num_classes"]
        if is_timm(network):
            check_name(network)
            taken += ["in_chans", *(["img_size"] if needs_image_size(network) else [])]
    return [*dict.fromkeys(taken)]
