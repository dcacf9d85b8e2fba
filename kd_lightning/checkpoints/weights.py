"""Load weights into a network: from a checkpoint, a run folder, or a state dict in any common form."""

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from kd_lightning.checkpoints.file import check_sizes, read_weights
from kd_lightning.checkpoints.state_dicts import Candidate, Wanted, candidates
from kd_lightning.errors import UserError
from kd_lightning.reports.results import check_run
from kd_lightning.utils.paths import expand

NETWORK_PREFIX = "net."
"""Prefix of the network's weights in the checkpoints of a `ClassifierModule`."""

MAX_LISTED = 5
"""Unused names that a message lists."""


def resolve_checkpoint(path: str | Path, option: str, first: Literal["best", "last"] = "best") -> Path:
    """Return the path of a checkpoint: the file itself, or a run folder's best checkpoint, else its last.

    Args:
        path: a file, or a run folder as under `lightning_logs/`.
        option: the option that named the path, for errors.
        first: which of a run folder's two checkpoints to prefer.

    Raises:
        UserError: there is no such file or checkpoint.
    """
    path = Path(expand(path, option))
    if path.is_dir():
        for name in ("best.ckpt", "last.ckpt") if first == "best" else ("last.ckpt", "best.ckpt"):
            if (file := path / "checkpoints" / name).is_file():
                return file
        raise UserError(f"{option}: {path} has no checkpoints/best.ckpt or checkpoints/last.ckpt; train it first")
    if not path.is_file():
        raise UserError(f"{option}: no file or run folder {path}; train it first, or name another")
    return path


def load_weights(network: nn.Module, path: Path, option: str) -> Any:
    """Load a file's weights into a network; every name and shape has to match, and no code in the file is run.

    Args:
        network: receives the weights.
        path: a checkpoint of this project, or a file saved with torch or safetensors.
        option: the option that named the file, for errors.

    Returns:
        The file's content.

    Raises:
        UserError: the file is damaged, no checkpoint, a pickled module, of another architecture, or lies in the folder
            of another run.
    """
    content = read_weights(path, option)
    check_run(path, content, option)
    network.load_state_dict(fitting_weights(network, content, path, option))
    return content


def is_of_module(content: Any, module: nn.Module) -> bool:
    """Return whether a file's content is a Lightning checkpoint with the names of a module's weights."""
    is_checkpoint = isinstance(content, dict) and "pytorch-lightning_version" in content
    return is_checkpoint and (content.get("state_dict") or {}).keys() == module.state_dict().keys()


def search_parts(content: Any) -> list[Any]:
    """Return the parts of a file's content in which weights are searched, in order."""
    return [*_of_lightning(content), content]


def fitting_weights(
    network: nn.Module, content: Any, path: Path, option: str, head: str | None = None
) -> dict[str, Tensor]:
    """Return a network's weights from a file's content, under any key and prefix.

    In a Lightning checkpoint, the network named `net` is searched first, then the whole `state_dict`, then the rest.

    Args:
        network: has the names and shapes to find.
        content: as returned by `read_weights`.
        path: the file.
        option: the option that named the file, for errors.
        head: prefix of the names of a layer that is left out.

    Raises:
        UserError: no weights, those of another architecture, or several that fit and differ.
    """
    parts, wanted = search_parts(content), Wanted.of(network, head=head)
    tried = [found for part in parts if (found := candidates(wanted, part))]
    if not tried:
        raise UserError(f"{option}: {path} holds no state dict: names with tensors were expected")
    first, *others = next((found for found in tried if not found[0].problems), tried[0])
    if problems := first.problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{option}: the weights in {path} do not fit {type(network).__name__}: {'; '.join(problems[:3])}{more}"
        )
    if other := next((other for other in others if not other.equals(first)), None):
        raise UserError(
            f"{option}: {path} holds several weights that fit {type(network).__name__}: {first}; {other}; one "
            f"expected; save the right ones alone: {_how_to_save(other, path)}"
        )
    check_sizes(first.weights, path, option)
    is_ours = parts[0] is not content and (first.keys, first.prefix) == (("state_dict",), NETWORK_PREFIX)
    if not (first.is_plain() or (is_ours and not first.left_out)):
        rank_zero_info(f"{option}: {path}: weights found at {first}{_left_out(first.left_out)}")
    return first.weights


def _of_lightning(content: Any) -> list[dict[str, Any]]:
    """Return the parts of a Lightning checkpoint to search before the rest; none for another file."""
    if not (isinstance(content, dict) and "pytorch-lightning_version" in content):
        return []
    state = content.get("state_dict")
    if not isinstance(state, dict):
        return []
    net = {name: value for name, value in state.items() if str(name).startswith(NETWORK_PREFIX)}
    return [{"state_dict": part} for part in (net, state) if part]


def _how_to_save(chosen: Candidate, path: Path) -> str:
    """Return Python code that saves one of several networks' weights alone."""
    load = f"safetensors.torch.load_file('{path}')" if path.suffix == ".safetensors" else f"torch.load('{path}')"
    state = load + "".join(f"['{key}']" for key in chosen.keys)
    if chosen.prefix:
        state = f"{{k: v for k, v in {state}.items() if k.startswith('{chosen.prefix}')}}"
    return f"torch.save({state}, 'weights.pt')"


def _left_out(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"; left out: {', '.join(names[:MAX_LISTED])}{more}" if names else ""
