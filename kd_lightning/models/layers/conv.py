"""A 3x3 convolution that is fast on small feature maps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_PIXELS, MIN_CHANNELS = 16, 256
"""Feature maps for which a matrix product is faster on a CPU than a convolution, by far in bfloat16."""


class Conv3x3(nn.Conv2d):
    """3x3 convolution with padding 1; one matrix product on a CPU for small maps with many channels.

    oneDNN's convolutions process a map row by row, and leave most of a CPU's matrix unit idle if a row has two or four
    pixels. There the neighbourhoods of all pixels in the batch form the rows of one matrix: the same sums in another
    order. Weights and their names are those of `nn.Conv2d`.

    Args:
        in_channels: channels of the input (B, C, H, W).
        out_channels: channels of the output, of the same height and width.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve maps (B, in_channels, H, W) to (B, out_channels, H, W)."""
        batch, channels, height, width = maps.shape
        small = height * width <= MAX_PIXELS and channels >= MIN_CHANNELS
        # The runtimes of exported networks have their own convolutions, and fold batch norm into them.
        if maps.device.type != "cpu" or not small or torch.compiler.is_exporting():
            return super().forward(maps)
        padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        windows = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
        rows = torch.cat(windows, dim=-1).view(batch * height * width, 9 * channels)
        weight = self.weight.permute(0, 2, 3, 1).reshape(self.out_channels, 9 * channels)
        return F.linear(rows, weight, self.bias).view(batch, height, width, -1).permute(0, 3, 1, 2)
