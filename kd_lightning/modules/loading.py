"""Check the arguments of `load_from_checkpoint`: a checkpoint has weights, and not the module's arguments."""

import inspect
from pathlib import Path
from typing import Any

from kd_lightning.checkpoints.description import KEY
from kd_lightning.checkpoints.file import read_weights
from kd_lightning.errors import UserError

OPTION = "load_from_checkpoint"


def check_given(module: type, path: Path, given: dict[str, Any]) -> None:
    """Raise `UserError`, with the call to write, unless all required arguments of a module are given.

    Args:
        module: the class.
        path: the checkpoint.
        given: arguments by name.
    """
    parameters = list(inspect.signature(module).parameters.values())
    needed = [
        each.name for each in parameters if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    content = read_weights(path, OPTION)
    known = content.get("hyper_parameters") if isinstance(content, dict) else None  # of a subclass that saves them
    missing = [name for name in needed if name not in {**(known or {}), **given}]
    if missing:
        description = content.get(KEY) if isinstance(content, dict) else None
        network = description.get("network") if isinstance(description, dict) else None
        shown = {"net": _call(network), "teacher": "TEACHER, teacher_ckpt=FILE"}
        arguments = ", ".join(f"{name}={shown.get(name, name.upper())}" for name in needed)
        raise UserError(
            f"{OPTION}: {' and '.join(missing)} not given, which {path} does not hold: "
            f"{module.__name__}.{OPTION}({str(path)!r}, {arguments})"
        )


def _call(network: Any) -> str:
    """Write the Python that builds the network of a checkpoint's description; a placeholder without one."""
    if not isinstance(network, dict) or not isinstance(network.get("class_path"), str):
        return "NETWORK"
    parts = [part for name in ("init_args", "dict_kwargs") if isinstance(part := network.get(name), dict)]
    options = ", ".join(f"{name}={value!r}" for part in parts for name, value in part.items())
    return f"{network['class_path']}({options})"
