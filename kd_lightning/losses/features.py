"""Losses between what a layer of the student and a layer of the teacher give."""

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.layers import mismatch, one_vector
from kd_lightning.utils.precision import at_least_float32

__all__ = ["CosineHiddenLoss", "EmbeddingLoss", "FeatureMapLoss"]


class CosineHiddenLoss(nn.Module):
    """Turn the student's hidden vector in the direction of the teacher's: 1 - cosine, mean over the batch.

    Each image's features are flattened to one vector. Where one is k times as long as the other, every k neighbours of
    it are averaged into one. Computed in float32 (float64 stays), whatever the precision of the features.

    Source: the hidden-representation variant of the PyTorch knowledge-distillation tutorial, whose
    `CosineEmbeddingLoss` with targets of 1 this is; it pools 2048 to 1024.
    """

    def forward(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Compare two layers' outputs.

        Args:
            student_features: (B, …), W numbers an image.
            teacher_features: (B, …), a multiple of W numbers an image, or W is a multiple of theirs.

        Returns:
            A scalar in [0, 2], 0 where the directions agree.

        Raises:
            ValueError: the batches differ, or neither width is a multiple of the other.
        """
        student, teacher = (at_least_float32(it).flatten(1) for it in (student_features, teacher_features))
        width = min(student.shape[1], teacher.shape[1])
        if student.shape[1] % width or teacher.shape[1] % width or len(student) != len(teacher):
            expected = "as many images, and as many numbers for each or a multiple of the other's,"
            raise mismatch(student_features, teacher_features, expected)
        student, teacher = (F.avg_pool1d(vector, vector.shape[1] // width) for vector in (student, teacher))
        return F.cosine_embedding_loss(student, teacher, student.new_ones(len(student)))


class EmbeddingLoss(nn.Module):
    """Let the student's features predict the direction of a teacher's embedding: 1 - cosine behind a projector.

    The projector, a trainable linear layer, brings the student's width to the teacher's. It learns with the student and
    is no part of it, so that the student's own features stay free for its classes. Feature maps (B, C, H, W) are
    averaged over height and width, tokens (B, N, C) over N. Computed in float32 (float64 stays).

    Args:
        student_width: C of the student's features.
        teacher_width: C of the teacher's.

    Source: the projector and the direction, Chen et al. 2022, section 3 (arXiv 2210.15274), with one projector.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.projector = nn.Linear(student_width, teacher_width)

    def forward(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Compare two layers' outputs, each (B, C), (B, N, C) or (B, C, H, W).

        Returns:
            A scalar in [0, 2], 0 where the directions agree.

        Raises:
            ValueError: the batches differ, or a width is another one.
        """
        student, teacher = one_vector(student_features), one_vector(teacher_features)
        widths = self.projector.in_features, self.projector.out_features
        found = student.shape[1:], teacher.shape[1:]
        if len(student) != len(teacher) or found != (widths[:1], widths[1:]):
            expected = f"as many images, and widths of {widths[0]} and {widths[1]},"
            raise mismatch(student_features, teacher_features, expected)
        predicted = at_least_float32(self.projector(student))
        return (1 - F.cosine_similarity(predicted, at_least_float32(teacher))).mean()


class FeatureMapLoss(nn.Module):
    """Let the student's feature map predict the teacher's: mean squared error behind a trainable regressor.

    The regressor, a 3x3 convolution that keeps height and width, brings the student's channels to the teacher's. It
    learns with the student and is no part of it. The error is taken in float32 (float64 stays), over all numbers.

    Args:
        student_channels: of the student's map.
        teacher_channels: of the teacher's map.

    Sources: the regressor, Romero et al. 2015, section 2.2 (FitNets, arXiv 1412.6550); this form, the PyTorch
    knowledge-distillation tutorial.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.regressor = nn.Conv2d(student_channels, teacher_channels, kernel_size=3, padding=1)

    def forward(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Compare two layers' maps.

        Args:
            student_features: (B, student channels, H, W).
            teacher_features: (B, teacher channels, H, W).

        Returns:
            A scalar of at least 0.

        Raises:
            ValueError: the maps have other channels, or differ in height, width or batch.
        """
        channels = self.regressor.in_channels, self.regressor.out_channels
        images, size = len(student_features), student_features.shape[2:]
        # Checked here, as the squared error would broadcast one map against the other without a word.
        if (
            len(size) != 2
            or student_features.shape[1] != channels[0]
            or teacher_features.shape != (images, channels[1], *size)
        ):
            expected = f"maps of {channels[0]} and {channels[1]} channels, equal in height and width,"
            raise mismatch(student_features, teacher_features, expected)
        return F.mse_loss(at_least_float32(self.regressor(student_features)), at_least_float32(teacher_features))
