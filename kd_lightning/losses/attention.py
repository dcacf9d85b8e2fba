"""The loss between attention maps: where in an image a layer is active."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.errors import UserError
from kd_lightning.losses.layers import Features, layer_pairs, mismatch, unit
from kd_lightning.utils.precision import at_least_float32

__all__ = ["AttentionTransferLoss"]

FAINTEST = 1e-30
"""Maps whose values do not exceed this are dark."""


class AttentionTransferLoss(nn.Module):
    """Let the student's layers be active where the teacher's are: squared distance of normalised attention maps.

    Σ over pairs of layers of mean over images and places of (q_s / ‖q_s‖ - q_t / ‖q_t‖)², with q the mean over channels
    of abs(A)^p, one number for each place. Where heights or widths differ, the larger map is averaged to the smaller
    size. Channels may differ. Computed in float32 (float64 stays).

    Args:
        power: p, at least 1.

    Source: Zagoruyko and Komodakis 2017, section 3.1 (arXiv 1612.03928), equation 2; the mean over images and places,
    and the pooling, as in their code and in RepDistiller's.
    """

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        if not power >= 1:
            raise UserError(f"power: {power} found, at least 1 expected")
        self.power = power

    def forward(self, student_features: Features, teacher_features: Features) -> Tensor:
        """Compare feature maps (B, C, H, W), of one layer or of several.

        Returns:
            A scalar; for each pair between 0 and 2 / (H · W).

        Raises:
            ValueError: other numbers of layers or images, or outputs that are no maps.
        """
        losses = []
        for student, teacher in layer_pairs(student_features, teacher_features):
            if student.dim() != 4 or teacher.dim() != 4:
                raise mismatch(student, teacher, "maps (B, C, H, W)")
            size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
            losses.append((self._attention(student, size) - self._attention(teacher, size)).square().mean())
        return torch.stack(losses).sum()

    def _attention(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the attention of maps, averaged to a size, as unit vectors (B, H·W)."""
        maps = at_least_float32(maps)
        if maps.shape[2:] != size:
            maps = F.adaptive_avg_pool2d(maps, size)
        # The direction is the same whatever the scale, and a scale of 1 keeps powers and squares within float32.
        brightest = maps.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
        return unit((maps / brightest.clamp(min=FAINTEST)).abs().pow(self.power).mean(dim=1).flatten(1))
