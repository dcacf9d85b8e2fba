"""torchvision's networks with published weights and a new last layer."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models

from kd_lightning.checkpoints.file import read_weights
from kd_lightning.checkpoints.state_dicts import Wanted, candidates
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.download import short_timeout
from kd_lightning.utils.paths import expand

OLD_NAMES = {r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)": r"\1"}
"""From names in published DenseNet files, `norm.1`, to those of today, `norm1`."""


def pretrained(name: str, weights: str | None = "DEFAULT", num_classes: int = 10) -> nn.Module:
    """Return one of torchvision's classification networks with published weights and a new last layer.

    Args:
        name: a function in `torchvision.models`, such as "resnet50".
        weights: initial weights of all layers but the last. "DEFAULT" or another entry of the network's weights enum in
            torchvision, downloaded once; or a file with a state dict of such a network with any classes (.pt, .pth or
            .safetensors). None for random weights.
        num_classes: outputs.

    Raises:
        UserError: no such network; the weights cannot be downloaded or read, or are of another network.
    """
    known = list_models(module=torchvision.models)
    if name not in known:
        close = ", ".join(get_close_matches(name, known, cutoff=0.4)) or "resnet18"
        raise UserError(f"name: {name} found, a classification network of torchvision.models expected, such as {close}")
    network: nn.Module = get_model(name, num_classes=num_classes)
    if hasattr(network, "aux_logits"):
        raise UserError(f"name: {name} found, which has auxiliary outputs; a network with one output expected")
    if weights not in (None, "None"):  # jsonargparse 4 reads the null in `--model.net.weights null` as text
        entries = get_model_weights(name).__members__
        content = _download(name, entries[weights]) if weights in entries else _read(Path(weights), list(entries))
        _load_body(network, content, f"weights: {weights} does not fit {name}")
    return network


def _download(name: str, entry: Any) -> Any:
    """Return downloaded weights, or download them."""
    cached = Path(expand(torch.hub.get_dir(), "weights"), "checkpoints", Path(entry.url).name)
    if cached.is_file():
        return read_weights(cached, "weights")
    try:
        with short_timeout():
            return entry.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"weights: {entry.name} of {name} cannot be downloaded ({one_line(error)}); fetch {entry.url} "
            "elsewhere, and name the file instead"
        ) from error


def _read(file: Path, entries: list[str]) -> Any:
    if not file.is_file():
        raise UserError(
            f"weights: no file {file}; a state dict's file, or one of torchvision's {', '.join(entries)} expected"
        )
    return read_weights(file, "weights")


def _load_body(network: nn.Module, content: Any, refusal: str) -> None:
    """Load the weights of all layers but the last, under any key and prefix; every name and shape has to match."""
    head = [*network.state_dict()][-1].rpartition(".")[0] + "."
    wanted = Wanted.of(network, head=head, other_names=OLD_NAMES)
    found = candidates(wanted, content)
    if not found:
        raise UserError(f"{refusal}: {next(iter(wanted.tensors))} is missing")
    first, *others = found
    if first.problems:
        raise UserError(f"{refusal}: {first.problems[0]}")
    if other := next((other for other in others if not other.equals(first)), None):
        raise UserError(f"{refusal} alone, but several do, with different values: {first}; {other}")
    network.load_state_dict(first.weights, strict=False)
