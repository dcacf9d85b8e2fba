"""Losses between the softened outputs of a teacher and a student."""

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.utils.precision import at_least_float32

__all__ = ["soft_target_loss", "soft_target_losses"]


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's softened distribution to the student's, times the temperature squared.

    T² · mean over the batch of Σ_c p_c (log p_c - log q_c), with p = softmax(teacher / T) and
    q = softmax(student / T). The factor T² keeps the gradient's size about constant in T, so that a weight
    chosen at one temperature holds at another. Computed from log-probabilities in float32 (float64 stays),
    whatever the precision of the logits, so that confident logits give no infinity.

    Args:
        student_logits: (B, classes), before any softmax.
        teacher_logits: (B, classes), before any softmax.
        temperature: above 0; the sources use 2 to 20.

    Returns:
        A scalar, in nats times T², 0 where the two agree.

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.

    Source: Hinton, Vinyals and Dean 2015, section 2 (arXiv 1503.02531).
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} differ"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    student = F.log_softmax(at_least_float32(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(at_least_float32(teacher_logits) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def soft_target_losses(student_logits: Tensor, teacher_logits: Tensor, temperature: Tensor) -> Tensor:
    """`soft_target_loss` of several students of one teacher, each at its own temperature.

    Args:
        student_logits: (M, B, classes).
        teacher_logits: (B, classes).
        temperature: (M,), each above 0.

    Returns:
        (M,), in nats times T².
    """
    student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits)
    each = temperature.to(student).view(-1, 1, 1)
    student, teacher = F.log_softmax(student / each, dim=2), F.log_softmax(teacher / each, dim=2)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=2).mean(dim=1)
    return divergence * each.flatten() ** 2
