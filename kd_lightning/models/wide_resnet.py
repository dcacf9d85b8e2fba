"""Wide residual networks for images of 32 pixels."""

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn

from kd_lightning.models.cifar_resnet import init_convolutions
from kd_lightning.models.layers.dropout import Dropout
from kd_lightning.models.layers.logits import Logits


class WideResNet(nn.Sequential):
    """A 3x3 convolution, three groups of (depth - 4) / 6 pre-activation blocks, and one linear layer.

    WRN-40-2 is depth 40 and widen_factor 2: its groups have 32, 64 and 128 channels. The second and the third group
    halve height and width.

    Layers for feature losses: `layer1`, `layer2` and `layer3` return a group's maps, before any activation, as is
    usual for this network; `layer2.0.bn1`, `layer3.0.bn1` and `bn1` the same normalised; `flatten` the pooled vector
    (B, 64 * widen_factor) that `fc` turns into logits. Files of weights of RepDistiller and mdistiller fit.

    Args:
        depth: layers with weights, 6n + 4.
        widen_factor: multiplies the 16, 32 and 64 channels of the groups.
        dropout: probability in [0, 1) with which an input of a block's second convolution is dropped.
        num_classes: outputs.
        in_channels: 1 for grey images, 3 for colour.

    Raises:
        ValueError: another depth, or a factor below 1.

    Source: Zagoruyko and Komodakis 2016, section 2 (arXiv 1605.07146).
    """

    other_names: ClassVar[dict[str, str]] = {r"\bblock([123])\.layer\.": r"layer\1.", r"\bconvShortcut\.": "shortcut."}
    """Regular expressions of names in files of other projects, and the names here."""

    def __init__(
        self,
        depth: int = 16,
        widen_factor: int = 2,
        dropout: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth {depth} found, 6n + 4 expected, such as 16, 28 or 40")
        if widen_factor < 1:
            raise ValueError(f"widen_factor {widen_factor} found, at least 1 expected")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = 16
        layers["conv1"] = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        for number in (1, 2, 3):
            out = 2 ** (number + 3) * widen_factor
            first = PreactivationBlock(width, out, stride=1 if number == 1 else 2, dropout=dropout)
            others = (PreactivationBlock(out, out, dropout=dropout) for _ in range(blocks - 1))
            layers[f"layer{number}"] = nn.Sequential(first, *others)
            width = out
        layers["bn1"] = nn.BatchNorm2d(width)
        layers["relu"] = nn.ReLU()
        layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        fc = layers["fc"] = Logits(width, num_classes)
        super().__init__(layers)
        init_convolutions(self)
        nn.init.zeros_(fc.bias)


class PreactivationBlock(nn.Module):
    """Batch norm, ReLU and 3x3 convolution, twice, added to a shortcut.

    Where the number of channels changes, the shortcut is a 1x1 convolution of the normalised, activated input.

    Args:
        in_channels: channels of the input (B, C, H, W).
        out_channels: channels of the output.
        stride: 2 halves height and width.
        dropout: see `WideResNet`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.dropout = Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if in_channels != out_channels or stride != 1:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Turn maps (B, in_channels, H, W) into (B, out_channels, H / stride, W / stride)."""
        active = self.relu1(self.bn1(maps))
        residual = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(active)))))
        return residual + (maps if self.shortcut is None else self.shortcut(active))
