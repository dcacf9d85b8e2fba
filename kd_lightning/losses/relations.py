"""Losses between relations of images: how the images of a batch lie to each other in a layer's output."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.layers import SHORTEST, Features, unit, vector_pairs
from kd_lightning.utils.precision import without_autocast

__all__ = ["PKTLoss", "RKDAngleLoss", "RKDDistanceLoss", "SimilarityPreservingLoss"]

PKT_EPSILON = 1e-7
"""Added to probabilities before the logarithm, as in the source."""


class SimilarityPreservingLoss(nn.Module):
    """Let images be as similar to each other in the student as in the teacher: squared distance of similarities.

    Σ over pairs of layers of 1/B² · ‖G_s - G_t‖², with G the products F·Fᵀ of the images' flattened features, each row
    scaled to length 1. Widths may differ. Computed in float32 (float64 stays).

    Source: Tung and Mori 2019, section 3 (arXiv 1907.09682).
    """

    def forward(self, student_features: Features, teacher_features: Features) -> Tensor:
        """Compare the outputs (B, …) of one layer or of several.

        Returns:
            A scalar; for each pair between 0 and 4 / B, and 0 for a batch of one.

        Raises:
            ValueError: other numbers of layers or images.
        """
        losses = []
        for student, teacher in vector_pairs(student_features, teacher_features):
            with without_autocast(student.device.type):
                losses.append((unit(student @ student.T) - unit(teacher @ teacher.T)).square().mean())
        return torch.stack(losses).sum()


class RKDDistanceLoss(nn.Module):
    """Relational knowledge distillation by distances: keep the images' distances, relative to their mean.

    Mean over all B² pairs (i, j) of huber(d_s(i, j) - d_t(i, j)), with d(i, j) = ‖f_i - f_j‖ / μ, μ the mean distance
    of two images of the batch, and huber(x) = x²/2 from -1 to 1, and abs(x) - 1/2 beyond. Features are flattened;
    widths may differ. Several layers' losses are added. Computed in float32 (float64 stays).

    Source: Park et al. 2019, section 3.2.1 (arXiv 1904.05068); the mean over pairs, as in their code.
    """

    def forward(self, student_features: Features, teacher_features: Features) -> Tensor:
        """Compare the outputs (B, …) of one layer or of several.

        Returns:
            A scalar of at least 0; 0 for a batch of one.

        Raises:
            ValueError: other numbers of layers or images.
        """
        pairs = vector_pairs(student_features, teacher_features)
        return torch.stack([F.smooth_l1_loss(_distances(ours), _distances(theirs)) for ours, theirs in pairs]).sum()


class RKDAngleLoss(nn.Module):
    """Relational knowledge distillation by angles: keep the angles of the triangles that the images form.

    Mean over all B³ triplets of huber(a_s(i, j, k) - a_t(i, j, k)), with a(i, j, k) the cosine of the angle at f_i
    between f_j and f_k; 0 where two of them are equal. Features are flattened; widths W may differ. Several layers'
    losses are added. Takes memory for B² · (B + W) numbers. Computed in float32 (float64 stays).

    Source: Park et al. 2019, section 3.2.2 (arXiv 1904.05068); the mean over triplets, as in their code.
    """

    def forward(self, student_features: Features, teacher_features: Features) -> Tensor:
        """Compare the outputs (B, …) of one layer or of several.

        Returns:
            A scalar in [0, 1.5]; 0 for a batch of one.

        Raises:
            ValueError: other numbers of layers or images.
        """
        pairs = vector_pairs(student_features, teacher_features)
        return torch.stack([F.smooth_l1_loss(_angles(ours), _angles(theirs)) for ours, theirs in pairs]).sum()


class PKTLoss(nn.Module):
    """Probabilistic knowledge transfer: keep the probabilities with which images are each other's neighbours.

    Mean over all B² pairs of p_t(i, j) · log(p_t(i, j) / p_s(i, j)), with p(i, j) = k(i, j) / Σ_l k(i, l) and
    k = (1 + cosine of the features) / 2, i = j included. Features are flattened; widths may differ. Several layers'
    losses are added. Computed in float32 (float64 stays).

    Source: Passalis and Tefas 2018, section 3 (arXiv 1803.10837), with the cosine kernel; i = j, the mean over pairs
    and 1e-7 within the logarithm, as in their code.
    """

    def forward(self, student_features: Features, teacher_features: Features) -> Tensor:
        """Compare the outputs (B, …) of one layer or of several.

        Returns:
            A scalar of at least 0; 0 for a batch of one.

        Raises:
            ValueError: other numbers of layers or images.
        """
        losses = []
        for ours, theirs in vector_pairs(student_features, teacher_features):
            student, teacher = _neighbours(ours), _neighbours(theirs)
            ratio = (teacher + PKT_EPSILON) / (student + PKT_EPSILON)
            losses.append((teacher * ratio.log()).mean().clamp(min=0))
        return torch.stack(losses).sum()


def _distances(vectors: Tensor) -> Tensor:
    """Return the distances (B, B) of vectors (B, W), divided by their mean over different images.

    `cdist` without matrix products: they lose the distance of close images, and its gradient at 0 is 0, not infinite.
    """
    distance = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    pairs = max(1, len(vectors) * (len(vectors) - 1))
    return distance / (distance.sum() / pairs).clamp(min=SHORTEST)


def _angles(vectors: Tensor) -> Tensor:
    """Return the cosines (B, B, B) of the angles at the first of three vectors (B, W)."""
    with without_autocast(vectors.device.type):
        direction = unit(vectors.unsqueeze(0) - vectors.unsqueeze(1), dim=2)
        return direction @ direction.transpose(1, 2)


def _neighbours(vectors: Tensor) -> Tensor:
    """Return the probabilities (B, B) that the second of two images is the first's neighbour."""
    with without_autocast(vectors.device.type):
        direction = unit(vectors)
        kernel = (direction @ direction.T + 1) / 2
    return kernel / kernel.sum(dim=1, keepdim=True)
