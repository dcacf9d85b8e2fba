"""Convolutional networks in VGG's shape, with batch norm."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from kd_lightning.models.layers.conv import Conv3x3
from kd_lightning.models.layers.dropout import Dropout
from kd_lightning.models.layers.logits import Logits


class VGG(nn.Sequential):
    """Blocks of 3x3 convolutions, each block ended by a 2x2 max-pool; then the average over the map, and one linear.

    A layer is dropout (if any), convolution, batch norm and ReLU. The layers are named `block1.conv1`,
    `block1.norm1`, …, with or without dropout, so that weights fit networks that differ in dropout alone. `block1`,
    `block2`, … return each block's pooled maps. The smallest image has 2 ** blocks pixels a side; at that size (32 for
    five blocks) the average is over one pixel, as in the source.

    Args:
        blocks: output channels of each layer of each block, as [[32, 32], [64, 64], [128], [128], [128]].
        dropout: probability in [0, 1) with which an input of a layer is dropped.
        track_running_stats: evaluate with the batch norm's running statistics; otherwise with those of the batch, on
            whose other images outputs then depend.
        num_classes: outputs.
        in_channels: 1 for grey images, 3 for colour.

    Sources: Simonyan and Zisserman 2014 (arXiv 1409.1556); sizes and layers of labml.ai's annotated distillation,
    nn.labml.ai/distillation.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[int]],
        dropout: float = 0.0,
        track_running_stats: bool = True,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, widths in enumerate(blocks, start=1):
            block: OrderedDict[str, nn.Module] = OrderedDict()
            for j, out_channels in enumerate(widths, start=1):
                if dropout:
                    block[f"dropout{j}"] = Dropout(dropout)
                block[f"conv{j}"] = Conv3x3(in_channels, out_channels)
                block[f"norm{j}"] = nn.BatchNorm2d(out_channels, track_running_stats=track_running_stats)
                block[f"relu{j}"] = nn.ReLU()
                in_channels = out_channels
            block["pool"] = nn.MaxPool2d(2)
            layers[f"block{i}"] = nn.Sequential(block)
        layers["average"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["classifier"] = Logits(in_channels, num_classes)
        super().__init__(layers)
