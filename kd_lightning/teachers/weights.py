"""Weights from a file: one of our checkpoints, a run folder, or a state dict that someone else saved."""

from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from kd_lightning.errors import UserError
from kd_lightning.results import check_run
from kd_lightning.weights_file import misfits, read_weights

NETWORK_PREFIX = "net."
"""Under which a `ClassifierModule` keeps its network in its checkpoints."""

FOREIGN_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What wrappers put before every name: `ClassifierModule` does `net.`, data parallelism `module.`, …"""


def resolve_checkpoint(path: str | Path, option: str, first: Literal["best", "last"] = "best") -> Path:
    """Find the file that a user means: the file itself, or a run folder's best checkpoint, else its last.

    Args:
        path: a file, or a run folder as under `lightning_logs/`.
        option: what the user set it with, for the error.
        first: which of a run folder's two it is to be where both are there.

    Raises:
        UserError: nothing is there.
    """
    path = Path(path)
    if path.is_dir():
        for name in ("best.ckpt", "last.ckpt") if first == "best" else ("last.ckpt", "best.ckpt"):
            if (file := path / "checkpoints" / name).is_file():
                return file
        raise UserError(f"{option}: {path} has no checkpoints/best.ckpt or checkpoints/last.ckpt; train it first")
    if not path.is_file():
        raise UserError(f"{option}: no file or run folder {path}; train it first, or name another")
    return path


def load_weights(network: nn.Module, path: Path, option: str) -> None:
    """Load a file's weights into a network, every name and shape matched; no code in the file is run.

    Args:
        network: receives the weights.
        path: `.ckpt` of ours, or a state dict as `.pt`, `.pth` or `.safetensors`.
        option: what the user set it with, for errors.

    Raises:
        UserError: the file is damaged, no checkpoint, a pickled module, of another architecture, or lies in the folder
            of another run.
    """
    content = read_weights(path, option)
    check_run(path, content, option)
    network.load_state_dict(fitting_weights(network, content, path, option))


def fitting_weights(network: nn.Module, content: Any, path: Path, option: str) -> dict[str, Tensor]:
    """Find a network's weights in what was read from a file.

    Args:
        network: whose names and shapes they must have; its own values play no part.
        content: of the file, as `read_weights` gives it.
        path: the file.
        option: what the user set it with, for errors.

    Raises:
        UserError: there are none, or those of another architecture.
    """
    found = _without_prefix(_state_dict(content, path, option), network)
    problems = misfits(found, network.state_dict())
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{option}: the weights in {path} do not fit {type(network).__name__}: {'; '.join(problems[:3])}{more}"
        )
    return found


def _state_dict(content: Any, path: Path, option: str) -> dict[str, Tensor]:
    """Find the network's tensors in a file's content."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        lightning = "pytorch-lightning_version" in content
        content = content["state_dict"]
        if lightning:  # ours, or another's: a network beside other parts is the one named `net`
            ours = {name: value for name, value in content.items() if str(name).startswith(NETWORK_PREFIX)}
            content = ours or content
    tensors = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )
    if not (tensors and content):
        raise UserError(f"{option}: {path} holds no state dict: names with tensors were expected")
    return content


def _without_prefix(found: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    expected = network.state_dict()
    while expected.keys() != found.keys():
        prefix = next((p for p in FOREIGN_PREFIXES if all(k.startswith(p) for k in found)), None)
        if prefix is None:
            break
        found = {k.removeprefix(prefix): v for k, v in found.items()}
    return found
