"""Replacements of four private parts of jsonargparse, which has no hooks for what they change."""

from collections.abc import Sequence
from typing import Any, Self

from jsonargparse import _typehints as typehints
from jsonargparse import _util as util
from torch import nn

from kd_lightning import models
from kd_lightning.models.config import is_network_factory

OTHER_LIBRARIES = ("torch.", "torchvision.", "torchmetrics.", "lightning.")
"""Packages whose modules `--model.help` leaves out: hundreds of layers and parts of networks."""

find_subclass_paths = typehints.get_all_subclass_paths
is_subclass = typehints.is_subclass_or_implements_protocol
sort_union = typehints.sort_subtypes_for_union


def patch_jsonargparse() -> None:
    """Replace four private parts of jsonargparse for this process; a second call changes nothing.

    - A function without a return annotation is accepted where a network is expected: most public factories have none.
    - `--model.help` lists this project's networks first, and no layers of torch: by default it lists every subclass
      of `nn.Module` in the order of imports.
    - `1` is read as an int where an option takes both `int` and `float`: `--trainer.limit_train_batches 1` is one
      batch, `1.0` the whole epoch. jsonargparse tries the types of a `Union` in order, and Python's `typing` caches one
      `Union` for all orders of the same types, so that an import elsewhere can reverse Lightning's `Union[int, float]`.
    - `null` is read for an option of an object within an object (`--data.views.count null`), whose value jsonargparse
      writes as Python's `None`.
    """
    for function, fixed in (
        (find_subclass_paths, _paths_for_help),
        (is_subclass, _is_subclass_or_factory),
        (sort_union, _int_before_float),
    ):
        setattr(typehints, function.__name__, fixed)
    for module in (typehints, util):
        setattr(module, NestedArg.__name__, NestedArg)


class NestedArg(util.NestedArg):
    """An option of an object within an object, whose value is written as YAML and parsed again."""

    def __new__(cls, key: str, val: Any) -> Self:
        """Make the option `key` with the value `val`."""
        return super().__new__(cls, key, "null" if val is None and "." in key else val)


def _paths_for_help(kind: Any, *args: Any, **kwargs: Any) -> list[str]:
    paths = find_subclass_paths(kind, *args, **kwargs)
    if kind is not nn.Module or kwargs.get("closed_types", True):  # names are looked up, not shown
        return paths
    ours = [f"kd_lightning.{name}" for name in models.__all__]
    return sorted((path for path in paths if not path.startswith(OTHER_LIBRARIES)), key=lambda path: path not in ours)


def _is_subclass_or_factory(value: Any, kind: Any) -> bool:
    return is_subclass(value, kind) or (kind is nn.Module and is_network_factory(value))


def _int_before_float(subtypes: Sequence[Any], *args: Any) -> list[Any]:
    types = list(sort_union(subtypes, *args))
    if int in types and float in types and types.index(float) < types.index(int):
        types.remove(int)
        types.insert(types.index(float), int)
    return types
