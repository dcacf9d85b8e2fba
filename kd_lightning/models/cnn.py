"""Small convolutional networks."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from kd_lightning.models.layers.logits import Logits


class CNN(nn.Sequential):
    """Blocks of 3x3 convolution, ReLU and 2x2 max-pooling, then fully connected layers with ReLU between them.

    Args:
        channels: output channels of each block; each block halves height and width, rounding down.
        hidden: units of each hidden fully connected layer.
        in_channels: 1 for grey images, 3 for colour.
        image_size: height and width of the (square) image, in pixels.
        num_classes: outputs.

    Raises:
        ValueError: the image is too small for that many blocks.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32),
        hidden: Sequence[int] = (128,),
        in_channels: int = 1,
        image_size: int = 28,
        num_classes: int = 10,
    ) -> None:
        size = image_size >> len(channels)
        if size < 1:
            raise ValueError(f"image_size {image_size} is too small for {len(channels)} halvings")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, out_channels in enumerate(channels, start=1):
            layers[f"conv{i}"] = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
            layers[f"conv_relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            in_channels = out_channels
        layers["flatten"] = nn.Flatten()
        layers.update(linear_layers(in_channels * size * size, hidden, num_classes))
        super().__init__(layers)


def linear_layers(features: int, hidden: Sequence[int], num_classes: int) -> OrderedDict[str, nn.Module]:
    """Return the named linear layers at the end of a network: `linear1`, `relu1`, …, `classifier`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, width in enumerate(hidden, start=1):
        layers[f"linear{i}"] = nn.Linear(features, width)
        layers[f"relu{i}"] = nn.ReLU()
        features = width
    layers["classifier"] = Logits(features, num_classes)
    return layers
