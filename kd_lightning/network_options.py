"""Options of the networks that a config names, which data and checkpoints settle."""

from collections.abc import Callable
from inspect import isclass, ismodule
from pydoc import locate
from typing import Any

from jsonargparse import ArgumentParser

from kd_lightning.errors import UserError

OURS, TORCHVISION = "kd_lightning.models.", "torchvision.models."
"""Where networks are defined whose option `weights` is published weights."""


def leave_out_weights(network: Any) -> None:
    """Build a network that checkpoints are loaded into without published weights, which need not be there then."""
    for part in _parts(network):
        published = _home(part).startswith((OURS, TORCHVISION))
        if published and (part.get("init_args") or {}).get("weights") is not None:
            part.init_args.weights = None


def _home(network: Any) -> str:
    """The module in which a network's class, or the function that makes it, is defined."""
    return getattr(_named(network.class_path), "__module__", None) or ""


def _named(class_path: str) -> Any:
    """What a class path names; None where it names nothing."""
    found = locate(class_path)
    if ismodule(found):  # since Python 3.12 a module comes before what its package calls by the same name
        package, _, name = class_path.rpartition(".")
        return getattr(locate(package), name)
    return found


def _parts(network: Any) -> list[Any]:
    """A network's config; of an ensemble those of its members; nothing where there is none."""
    if network is None:
        return []
    members = (network.get("init_args") or {}).get("members")
    return members if isinstance(members, list) else [network]


def fit_to_classes(model: Any, count: Callable[[], int]) -> None:
    """Give each network that takes `num_classes`, and was left at its own default, as many as the data has.

    Args:
        model: a config's `model`.
        count: says how many; 0 where the data does not know before setup. Is asked only where it matters.

    Raises:
        UserError: published weights for other classes than the data has.
    """
    options = model.get("init_args") or {}
    networks = [part for name in ("net", "teacher") for part in _parts(options.get(name))]
    unset = [network for network in networks if _is_unset(network)]
    if not unset:
        return
    classes = count()
    for network in unset if classes else ():  # a module of the user's own may know it after setup alone
        given = network.get("init_args") or {}
        if _home(network).startswith(TORCHVISION) and given.get("weights"):
            raise UserError(
                f"model: {network.class_path} with weights has 1000 classes, the data {classes}; "
                "kd_lightning.models.pretrained gives such a network a head of its own"
            )
        if "num_classes" in given:
            given["num_classes"] = classes
        else:
            network.dict_kwargs = {**(network.get("dict_kwargs") or {}), "num_classes": classes}


def _is_unset(network: Any) -> bool:
    """Whether a network takes `num_classes`, and was left at its own default."""
    given = {**(network.get("init_args") or {}), **(network.get("dict_kwargs") or {})}
    if "num_classes" in given:
        return bool(given["num_classes"] == _default_classes(network.class_path))
    return _home(network).startswith(TORCHVISION)  # where some functions hand it on without naming it


def _default_classes(class_path: str) -> int | None:
    """The `num_classes` of a network class, or of a function that makes one, where nothing else is said."""
    make: Any = _named(class_path)
    parser = ArgumentParser()
    (parser.add_class_arguments if isclass(make) else parser.add_function_arguments)(make, fail_untyped=False)
    return parser.get_defaults().get("num_classes")
