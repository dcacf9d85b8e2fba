"""Optional packages, each installed by an extra of this project."""

import importlib

from kd_lightning.errors import UserError

EXTRAS = {"timm": "timm", "transformers": "hub", "datasets": "hub"}
"""Names of the extras, as in pyproject.toml, by package."""


def need_package(name: str) -> None:
    """Import an optional package.

    Raises:
        UserError: it is not installed.
    """
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise UserError(not_installed(name)) from error


def not_installed(name: str) -> str:
    """Return the message on a missing package, with the command that installs it."""
    return f'{name} is not installed: pip install "kd_lightning[{EXTRAS[name]}]"'
