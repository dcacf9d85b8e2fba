"""What the losses on layers share: pairs of layers, the error for shapes that do not fit, and unit vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kd_lightning.utils.precision import at_least_float32

SHORTEST = 1e-12
"""Vectors up to this length count as zero: they have no direction."""

Features = Tensor | Sequence[Tensor]
"""What one layer gives, or what several do, in order."""


def layer_pairs(student_features: Features, teacher_features: Features) -> list[tuple[Tensor, Tensor]]:
    """Return the layers of student and teacher in pairs, one pair for two tensors.

    Raises:
        ValueError: another number of layers, or of images.
    """
    student, teacher = _listed(student_features), _listed(teacher_features)
    if len(student) != len(teacher) or not student:
        raise mismatch(student_features, teacher_features, "as many layers, at least one,")
    for ours, theirs in zip(student, teacher, strict=True):
        if not ours.dim() or not theirs.dim() or len(ours) != len(theirs):
            raise mismatch(ours, theirs, "as many images")
    return list(zip(student, teacher, strict=True))


def vector_pairs(student_features: Features, teacher_features: Features) -> list[tuple[Tensor, Tensor]]:
    """Return the layers in pairs, each flattened to one vector an image, (B, W), in float32 or finer.

    Raises:
        ValueError: another number of layers, or of images.
    """
    return [
        (at_least_float32(ours).reshape(len(ours), -1), at_least_float32(theirs).reshape(len(theirs), -1))
        for ours, theirs in layer_pairs(student_features, teacher_features)
    ]


def mismatch(student_features: Features, teacher_features: Features, expected: str) -> ValueError:
    """Make the error for features that do not fit; it names the shapes of both.

    Args:
        student_features: of one layer or several.
        teacher_features: of one layer or several.
        expected: what the loss takes.
    """
    found = f"student features {_shape(student_features)} and teacher features {_shape(teacher_features)}"
    return ValueError(f"{found} do not match: {expected} expected")


def unit(vectors: Tensor, dim: int = 1) -> Tensor:
    """Scale vectors to length 1; zeros stay zeros, and have a gradient of 0 in place of an infinite one."""
    length = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    is_zero = length <= SHORTEST
    return vectors.masked_fill(is_zero, 0) / length.masked_fill(is_zero, 1)


def one_vector(features: Tensor) -> Tensor:
    """Average feature maps and tokens to one vector an image; leave anything else."""
    if features.dim() == 4:
        return features.mean(dim=(2, 3))
    return features.mean(dim=1) if features.dim() == 3 else features


def _listed(features: Features) -> list[Tensor]:
    return [features] if isinstance(features, Tensor) else list(features)


def _shape(features: Features) -> str:
    if isinstance(features, Tensor):
        return str(tuple(features.shape))
    return f"[{', '.join(str(tuple(each.shape)) for each in features)}]"
