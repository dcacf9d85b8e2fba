"""A convolution that stays fast where maps are small."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_PIXELS, LEAST_CHANNELS = 16, 256
"""From here on, on a CPU, one matrix product is faster than a convolution, and by much in bfloat16."""


class Conv3x3(nn.Conv2d):
    """3x3 convolution with a border of one pixel, as one matrix product on a CPU where maps are small and wide.

    oneDNN's convolutions work through a map row by row, and leave most of a CPU's matrix unit idle where a row has two
    or four pixels. There each pixel's surroundings are gathered into one row of a matrix, and all pixels of the batch
    are multiplied at once: the same sums, in another order. Weights and their names are those of `nn.Conv2d`.

    Args:
        in_channels: C of the maps (B, C, H, W) that come in.
        out_channels: of those that go out, of the same height and width.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) to (B, out_channels, H, W)."""
        batch, channels, height, width = maps.shape
        small = height * width <= MOST_PIXELS and channels >= LEAST_CHANNELS
        # What an exported network runs on has its own convolutions, and folds batch norm into them.
        if maps.device.type != "cpu" or not small or torch.compiler.is_exporting():
            return super().forward(maps)
        padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        windows = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
        around = torch.cat(windows, dim=-1).view(batch * height * width, 9 * channels)
        weight = self.weight.permute(0, 2, 3, 1).reshape(self.out_channels, 9 * channels)
        return F.linear(around, weight, self.bias).view(batch, height, width, -1).permute(0, 3, 1, 2)
