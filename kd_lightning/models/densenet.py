"""DenseNet-121 with a head of its own."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models import DenseNet, DenseNet121_Weights

from kd_lightning.download import one_line, short_patience
from kd_lightning.errors import UserError
from kd_lightning.models.logits import Logits
from kd_lightning.weights_file import read_weights

BACKBONE = "features."
"""Under which a DenseNet keeps all but its head."""

OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
"""A layer named as in torchvision's published file: `norm.1`, today `norm1`."""


def densenet121(weights: str | None = None, head: Sequence[int] = (250, 50), num_classes: int = 10) -> DenseNet:
    """Make torchvision's DenseNet-121, its classifier replaced by linear layers with nothing between them.

    Args:
        weights: what the backbone starts from; the head is always new. "DEFAULT" or another entry of torchvision's
            `DenseNet121_Weights` is downloaded, once; else a file of a DenseNet-121's state dict, whatever its head
            (.pt, .pth or .safetensors). Random by default.
        head: units of the head's hidden layers.
        num_classes: outputs.

    Raises:
        UserError: the weights are not to be downloaded, cannot be read, or are of another network.

    Sources: Huang et al. 2016 (arXiv 1608.06993); the head is that of the recipe `cifar10_densenet`.
    """
    network = torchvision.models.densenet121()
    if weights not in (None, "None"):  # jsonargparse 4 makes a word of the null in `--model.net.weights null`
        published = weights in DenseNet121_Weights.__members__
        content = _download(weights) if published else _read(Path(weights))
        _load_backbone(network.features, content, weights)
    widths = [network.classifier.in_features, *head]
    hidden = [nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(widths)]
    network.classifier = nn.Sequential(*hidden, Logits(widths[-1], num_classes))
    return network


def _download(entry: str) -> Any:
    try:
        with short_patience():
            return DenseNet121_Weights[entry].get_state_dict(
                progress=False, check_hash=True, map_location="cpu", weights_only=True
            )
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"weights: DenseNet-121's {entry} is not to be downloaded ({one_line(error)}); fetch "
            f"{DenseNet121_Weights[entry].url} elsewhere, and name the file in place of {entry}"
        ) from error


def _read(file: Path) -> Any:
    if not file.is_file():
        entries = ", ".join(DenseNet121_Weights.__members__)
        raise UserError(f"weights: no file {file}; a state dict's file, or one of torchvision's {entries} expected")
    return read_weights(file, "weights")


def _load_backbone(backbone: nn.Module, content: Any, source: str) -> None:
    """Load what a state dict holds of the backbone, every name and shape matched."""
    found = {
        OLD_NAME.sub(r"\1", name.removeprefix(BACKBONE)): tensor
        for name, tensor in (content.items() if isinstance(content, dict) else ())
        if isinstance(name, str) and name.startswith(BACKBONE) and isinstance(tensor, Tensor)
    }
    expected = backbone.state_dict()
    # Batch norm did not count its batches yet when torchvision's file was made.
    needed = [name for name in expected if not name.endswith("num_batches_tracked")]
    problems = [f"{name} is missing" for name in needed if name not in found]
    problems += [f"{name} is not in the network" for name in found if name not in expected]
    problems += [
        f"{name} is {list(found[name].shape)} in the file and {list(tensor.shape)} in the network"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if problems:
        raise UserError(f"weights: {source} does not fit DenseNet-121: {BACKBONE}{problems[0]}")
    backbone.load_state_dict(found)
