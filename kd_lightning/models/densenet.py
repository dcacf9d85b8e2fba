"""DenseNet-121 with another head."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import nn
from torchvision.models import DenseNet

from kd_lightning.models.layers.logits import Logits
from kd_lightning.models.pretrained import pretrained


def densenet121(weights: str | None = None, head: Sequence[int] = (250, 50), num_classes: int = 10) -> DenseNet:
    """Make torchvision's DenseNet-121, its classifier replaced by linear layers with nothing between them.

    Args:
        weights: initial weights of all layers but the head, see `pretrained`; random by default.
        head: units of the head's hidden layers.
        num_classes: outputs.

    Raises:
        UserError: the weights cannot be downloaded or read, or are of another network.

    Sources: Huang et al. 2016 (arXiv 1608.06993); the head is that of the recipe `cifar10_densenet`.
    """
    network = cast(DenseNet, pretrained("densenet121", weights))
    widths = [network.classifier.in_features, *head]
    hidden = [nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(widths)]
    network.classifier = nn.Sequential(*hidden, Logits(widths[-1], num_classes))
    return network
