"""The parser of the Lightning CLI's options."""

from argparse import SUPPRESS
from collections.abc import Iterable
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from kd_lightning.cli.messages import shorten
from kd_lightning.errors import UserError
from kd_lightning.models.config import as_function, takes_any_options


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
