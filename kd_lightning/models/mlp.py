"""A fully connected network."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from kd_lightning.models.layers.dropout import Dropout
from kd_lightning.models.layers.logits import Logits


class MLP(nn.Sequential):
    """Linear layers with ReLU and dropout between them; the image is flattened first.

    The layers are named `linear1`, `relu1`, `dropout1`, `linear2`, …, with or without dropout, so that weights fit
    networks that differ in dropout alone.

    Args:
        widths: units of every layer, from the input (C·H·W of the image) to the classes, as
            [784, 1200, 1200, 10].
        input_dropout: probability in [0, 1) with which an input is dropped.
        hidden_dropout: probability in [0, 1) with which a hidden unit is dropped.

    Raises:
        ValueError: fewer than two widths.

    Sources: teacher and students of Hinton et al. 2015, section 3 (arXiv 1503.02531).
    """

    def __init__(self, widths: Sequence[int], input_dropout: float = 0.0, hidden_dropout: float = 0.0) -> None:
        if len(widths) < 2:
            raise ValueError(f"an MLP needs its input's and its output's width, not widths={list(widths)}")
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        if input_dropout:
            layers["input_dropout"] = Dropout(input_dropout)
        last = len(widths) - 1
        for i, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
            layers[f"linear{i}"] = (nn.Linear if i < last else Logits)(fan_in, fan_out)
            if i < last:
                layers[f"relu{i}"] = nn.ReLU()
                if hidden_dropout:
                    layers[f"dropout{i}"] = Dropout(hidden_dropout)
        super().__init__(layers)
