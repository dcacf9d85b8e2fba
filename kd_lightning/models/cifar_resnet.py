"""Residual networks for images of 32 pixels."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.models.layers.logits import Logits

Shortcut = Literal["conv", "pad"]


class CifarResNet(nn.Sequential):
    """A 3x3 convolution, three groups of (depth - 2) / 6 residual blocks, and one linear layer of the averaged maps.

    ResNet-20, 32, 44, 56 and 110 are those depths with the default channels; ResNet-8x4 and 32x4 are depths 8 and 32
    with channels [32, 64, 128, 256]. The second and the third group halve height and width.

    Layers for feature losses: `layer1`, `layer2` and `layer3` return a group's maps; `layer1.2.preact` those of block 2
    before its last ReLU; `flatten` the pooled vector (B, channels[3]) that `fc` turns into logits. Names are those of
    torchvision, RepDistiller and mdistiller, so that their files of weights fit; `linear`, as in akamaster's files, is
    read as `fc`.

    Args:
        depth: layers with weights, 6n + 2.
        channels: of the first convolution and of the three groups.
        shortcut: where a block changes the shape, `conv` is a 1x1 convolution with batch norm (option B), and `pad`
            takes every second pixel and adds channels of zeros, without parameters (option A).
        num_classes: outputs.
        in_channels: 1 for grey images, 3 for colour.

    Raises:
        ValueError: another depth, not four numbers of channels, or another shortcut.

    Sources: He et al. 2015, section 4.2 (arXiv 1512.03385), which has option A; Tian et al. 2019 (arXiv 1910.10699) for
    option B, x4 and the initial weights; akamaster/pytorch_resnet_cifar10 for published weights of option A.
    """

    other_names: ClassVar[dict[str, str]] = {r"\blinear\.": "fc."}
    """Regular expressions of names in files of other projects, and the names here."""

    def __init__(
        self,
        depth: int = 20,
        channels: Sequence[int] = (16, 16, 32, 64),
        shortcut: Shortcut = "conv",
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth {depth} found, 6n + 2 expected, such as 8, 20, 32, 56 or 110")
        if len(channels) != 4:
            raise ValueError(f"channels {list(channels)} found, four numbers expected: first convolution, three groups")
        if shortcut not in ("conv", "pad"):
            raise ValueError(f"shortcut {shortcut} found, conv or pad expected")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = channels[0]
        layers["conv1"] = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        layers["bn1"] = nn.BatchNorm2d(width)
        layers["relu"] = nn.ReLU()
        for number, out in enumerate(channels[1:], start=1):
            first = ResidualBlock(width, out, stride=1 if number == 1 else 2, shortcut=shortcut)
            layers[f"layer{number}"] = nn.Sequential(first, *(ResidualBlock(out, out) for _ in range(blocks - 1)))
            width = out
        layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = Logits(width, num_classes)
        super().__init__(layers)
        init_convolutions(self)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a shortcut, then a ReLU.

    Args:
        in_channels: channels of the input (B, C, H, W).
        out_channels: channels of the output.
        stride: 2 halves height and width.
        shortcut: see `CifarResNet`; the identity where the shape stays.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, shortcut: Shortcut = "conv") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride, shortcut)
        self.preact = nn.Identity()  # a name for what the last ReLU gets
        self.relu2 = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Turn maps (B, in_channels, H, W) into (B, out_channels, H / stride, W / stride)."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(maps)))))
        return self.relu2(self.preact(residual + self.downsample(maps)))


class PadShortcut(nn.Module):
    """Every `stride`-th pixel, between channels of zeros: a shortcut without parameters.

    Args:
        added: channels of zeros, half of them before the input's.
        stride: distance of the pixels.
    """

    def __init__(self, added: int, stride: int) -> None:
        super().__init__()
        self.added, self.stride = added, stride

    def forward(self, maps: Tensor) -> Tensor:
        """Turn maps (B, C, H, W) into (B, C + added, H / stride, W / stride), rounded up."""
        before = self.added // 2
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.added - before))


def _shortcut(in_channels: int, out_channels: int, stride: int, kind: Shortcut) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if kind == "pad":
        if out_channels < in_channels:
            raise ValueError(f"channels {out_channels} after {in_channels} found, at least as many expected by pad")
        return PadShortcut(out_channels - in_channels, stride)
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def init_convolutions(network: nn.Module) -> None:
    """Draw the weights of all convolutions from a normal distribution of variance 2 / (outputs of a pixel).

    Source: He et al. 2015, Delving deep into rectifiers, section 2.2 (arXiv 1502.01852), backward case.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
