"""The parser of the Lightning CLI's options, and three fixes of jsonargparse, which has no hooks for them."""

from argparse import SUPPRESS
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from jsonargparse import _typehints as typehints
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

from kd_lightning import models
from kd_lightning.cli.messages import shorten
from kd_lightning.errors import UserError
from kd_lightning.models.config import as_function, is_network_factory, takes_any_options

OTHER_LIBRARIES = ("torch.", "torchvision.", "torchmetrics.", "lightning.")
"""Help lists no networks of these: they have hundreds of layers and parts of networks."""

find_subclass_paths = typehints.get_all_subclass_paths
is_subclass = typehints.is_subclass_or_implements_protocol
sort_union = typehints.sort_subtypes_for_union


class OptionParser(LightningArgumentParser):
    """A parser whose errors are one line, and which accepts any option of a network that takes `**kwargs`.

    Options cannot be abbreviated.
    """

    _is_open = False
    """Whether the class or function whose options it has takes further ones by `**kwargs`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Add the options of a class; note whether it takes further ones."""
        added = super().add_class_arguments(theclass, nested_key, *args, **kwargs)
        self._is_open = nested_key is None and takes_any_options(theclass, added)
        return added

    def add_function_arguments(self, function: Any, nested_key: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Add the options of a factory; note whether it takes further ones."""
        factory, skipped = as_function(function)
        kwargs["skip"] = {*(kwargs.get("skip") or ()), *skipped}
        added = super().add_function_arguments(factory, nested_key, *args, **kwargs)
        self._is_open = nested_key is None and takes_any_options(function, added)
        return added

    def parse_object(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a config."""
        self._add_unknown(getattr(cfg, "__dict__", cfg))
        return super().parse_object(cfg, *args, **kwargs)

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        """Parse words."""
        self._add_unknown(word[2:].partition("=")[0] for word in (args or []) if self._is_open)
        return super().parse_args(args, *more, **kwargs)

    def _add_unknown(self, names: Iterable[str]) -> None:
        """Add options that a network takes by `**kwargs`, of any type."""
        for name in names if self._is_open else ():
            if name.isidentifier() and f"--{name}" not in self._option_string_actions:
                self.add_argument(f"--{name}", type=Any, default=SUPPRESS)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise `UserError` with one line, instead of printing a page of usage."""
        raise UserError(shorten(message)) from ex


def fix_jsonargparse() -> None:
    """Replace three private functions of jsonargparse for this process; a second call changes nothing.

    - A function without a return annotation is accepted where a network is expected: most public factories have none.
    - `--model.help` lists this project's networks first, and no layers of torch: by default it lists every subclass
      of `nn.Module` in the order of imports.
    - `1` is read as an int where an option takes both `int` and `float`: `--trainer.limit_train_batches 1` is one
      batch, `1.0` the whole epoch. jsonargparse tries the types of a `Union` in order, and Python's `typing` caches one
      `Union` for all orders of the same types, so that an import elsewhere can reverse Lightning's `Union[int, float]`.
    """
    for function, fixed in (
        (find_subclass_paths, _paths_for_help),
        (is_subclass, _is_subclass_or_factory),
        (sort_union, _int_before_float),
    ):
        setattr(typehints, function.__name__, fixed)


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
