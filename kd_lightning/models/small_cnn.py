"""The student of DenseNet-121."""

from collections import OrderedDict

from torch import nn

from kd_lightning.models.cnn import linear_layers

BLOCKS = ((16, 5, 2), (32, 5, 2), (64, 3, 1))
"""Output channels, kernel and stride of each convolution; all have padding 1, ReLU and a 2x2 max-pool."""

HIDDEN = (250, 50)
"""Units of the hidden linear layers."""

MIN_IMAGE_SIZE = 37
"""Height and width of the smallest image, in pixels: the last pool leaves one pixel."""


class SmallCNN(nn.Sequential):
    """Three convolutions with ReLU and 2x2 max-pool, then three linear layers with ReLU between them.

    Args:
        image_size: height and width of the (square) colour image, in pixels.
        num_classes: outputs.

    Raises:
        ValueError: the image is too small for the layers.

    Source: the student of the recipes `cifar10_densenet` and `dogs_vs_cats`.
    """

    def __init__(self, image_size: int = 128, num_classes: int = 10) -> None:
        if image_size < MIN_IMAGE_SIZE:
            raise ValueError(f"image_size {image_size} is too small, at least {MIN_IMAGE_SIZE} expected")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, size = 3, image_size
        for i, (out_channels, kernel, stride) in enumerate(BLOCKS, start=1):
            layers[f"conv{i}"] = nn.Conv2d(channels, out_channels, kernel, stride, padding=1)
            layers[f"conv_relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            channels, size = out_channels, ((size + 2 - kernel) // stride + 1) // 2
        layers["flatten"] = nn.Flatten()
        layers.update(linear_layers(channels * size * size, HIDDEN, num_classes))
        super().__init__(layers)
