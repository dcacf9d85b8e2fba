"""The loss of knowledge review: each layer of the teacher is predicted from the student's and from all deeper ones."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.errors import UserError
from kd_lightning.losses.layers import layer_pairs, mismatch
from kd_lightning.utils.precision import at_least_float32

__all__ = ["ReviewKDLoss"]

WIDEST = 512
"""Channels in which layers are fused, at most."""

CONTEXT = (4, 2, 1)
"""Heights and widths to which maps are averaged, each with half the weight of the one before."""


class ReviewKDLoss(nn.Module):
    """Predict each of the teacher's layers from the student's layer at that depth and from all deeper ones.

    From the deepest layer to the first, the student's map is fused with that of the deeper ones by attention, and
    brought to the teacher's channels and size. Each result is compared with the teacher's map by the hierarchical
    context loss, Σ_l w_l · MSE_l / Σ_l w_l: over the maps as they are, and averaged to those of 4x4, 2x2 and 1x1 that
    are smaller. w is 1 for the first of these, and for each other half of the one before. The layers' losses are added.
    The fusions, as wide as the student's deepest layer, at most 512, are trained with the student and are no part of
    it. The errors are taken in float32 (float64 stays).

    Args:
        student_channels: of the student's layers, from the first to the deepest.
        teacher_channels: of the teacher's layers, in the same order.

    Source: Chen et al. 2021, section 3 (arXiv 2104.09044), and their code. There the layers are a network's stages and
    its pooled features, and the weight grows linearly over the first 20 epochs.
    """

    def __init__(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        super().__init__()
        if len(student_channels) != len(teacher_channels) or not student_channels:
            found = f"{len(student_channels)} and {len(teacher_channels)} layers"
            raise UserError(f"student_channels, teacher_channels: {found} found, as many of each expected, at least 1")
        middle = min(WIDEST, student_channels[-1])
        deepest = len(student_channels) - 1
        self.fusions = nn.ModuleList(
            _Fusion(student, middle, teacher, depth < deepest)
            for depth, (student, teacher) in enumerate(zip(student_channels, teacher_channels, strict=True))
        )
        self.channels = tuple(student_channels), tuple(teacher_channels)

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
        """Compare the outputs of several layers, each (B, C, H, W), or (B, C) if it is pooled.

        Returns:
            A scalar of at least 0.

        Raises:
            ValueError: other numbers of layers or images, or other channels.
        """
        pairs = [(_as_map(ours), _as_map(theirs)) for ours, theirs in layer_pairs(student_features, teacher_features)]
        found = [tuple(_channels(each) for each in layers) for layers in zip(*pairs, strict=True)]
        if found != [*self.channels]:
            expected = f"maps of {self.channels[0]} and {self.channels[1]} channels, the deepest layer last,"
            raise mismatch(student_features, teacher_features, expected)
        losses, deeper = [], None
        for fusion, (student, teacher) in zip(reversed(self.fusions), reversed(pairs), strict=True):
            predicted, deeper = fusion(student, deeper, teacher.shape[2:])
            losses.append(_context_loss(at_least_float32(predicted), at_least_float32(teacher)))
        return torch.stack(losses).sum()


class _Fusion(nn.Module):
    """Fuse a student's map with that of the deeper layers, and predict the teacher's map from it.

    Source: Chen et al. 2021, section 3 (arXiv 2104.09044), the attention-based fusion.
    """

    def __init__(self, channels: int, middle: int, teacher_channels: int, has_deeper: bool) -> None:
        super().__init__()
        first = nn.Conv2d(channels, middle, 1, bias=False)
        last = nn.Conv2d(middle, teacher_channels, 3, padding=1, bias=False)
        self.reduce = nn.Sequential(first, _BatchNorm(middle))
        self.predict = nn.Sequential(last, _BatchNorm(teacher_channels))
        self.attention = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if has_deeper else None
        for convolution in (first, last):
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, student: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Return the predicted map (B, teacher channels, *size), and the fused one (B, middle, *size)."""
        fused: Tensor = self.reduce(student.to(next(self.parameters()).dtype))
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:])
            share = self.attention(torch.cat([fused, deeper], dim=1))
            fused = fused * share[:, :1] + deeper * share[:, 1:]
        if fused.shape[2:] != size:
            fused = F.interpolate(fused, size)
        return self.predict(fused), fused


class _BatchNorm(nn.BatchNorm2d):
    """Batch norm that takes its running statistics where a batch has one number a channel, which has no variance."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def _context_loss(predicted: Tensor, teacher: Tensor) -> Tensor:
    """Compute the hierarchical context loss of two maps of equal shape."""
    loss, weight, total = F.mse_loss(predicted, teacher), 1.0, 1.0
    for side in CONTEXT:
        if side < min(teacher.shape[2:]):
            weight /= 2
            total += weight
            ours, theirs = (F.adaptive_avg_pool2d(each, side) for each in (predicted, teacher))
            loss = loss + weight * F.mse_loss(ours, theirs)
    return loss / total


def _as_map(features: Tensor) -> Tensor:
    """Return pooled features (B, C) as maps of one place (B, C, 1, 1); leave anything else."""
    return features[:, :, None, None] if features.dim() == 2 else features


def _channels(features: Tensor) -> int:
    return features.shape[1] if features.dim() == 4 else 0
