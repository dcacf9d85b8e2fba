"""Optional packages, each installed by an extra of this project."""

import importlib

from kd_lightning.errors import UserError

EXTRAS = {
    "timm": "timm",
    "transformers": "hub",
    "datasets": "hub",
    "wandb": "loggers",
    "mlflow": "loggers",
    "optuna": "search",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
}
"""Names of the extras, as in pyproject.toml, by package."""


def need_packages(*names: str, advice: str = "") -> None:
    """Import optional packages.

    Args:
        names: of the packages.
        advice: what else to do without them, for the error.

    Raises:
        UserError: one is not installed.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"{not_installed(name)}{advice}") from error


def not_installed(name: str) -> str:
    """Return the message on a missing package, with the command that installs it."""
    return f'{name} is not installed: pip install "kd_lightning[{EXTRAS[name]}]"'
