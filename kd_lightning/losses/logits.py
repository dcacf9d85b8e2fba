"""Losses between the logits of a teacher and a student, as divergences of their softened distributions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.utils.precision import at_least_float32

__all__ = [
    "jensen_shannon_loss",
    "logit_mse_loss",
    "reverse_kl_loss",
    "soft_target_loss",
    "soft_target_losses",
    "standardised",
    "ttm_loss",
    "wttm_loss",
]

STD_FLOOR = 1e-7
"""Added in quadrature to the standard deviation of an image's logits; as small as in the source of `standardised`."""


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's softened distribution to the student's, times the temperature squared.

    T² · mean over the batch of Σ_c p_c (log p_c - log q_c), with p = softmax(teacher / T) and
    q = softmax(student / T). The factor T² keeps the gradient's size about constant in T, so that a weight
    chosen at one temperature holds at another. Computed from log-probabilities in float32 (float64 stays),
    whatever the precision of the logits, so that confident logits give no infinity. A class that the teacher masks
    with a logit of -inf has p = 0.

    Args:
        student_logits: (B, classes), before any softmax.
        teacher_logits: (B, classes), before any softmax.
        temperature: above 0; the sources use 2 to 20.

    Returns:
        A scalar, in nats times T², at least 0, and 0 where the two agree.

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.

    Source: Hinton, Vinyals and Dean 2015, section 2 (arXiv 1503.02531).
    """
    student, teacher = log_probabilities(student_logits, teacher_logits, temperature)
    return kl_divergence(teacher, student) * temperature**2


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
    student, teacher = (_finite(F.log_softmax(logits / each, dim=2)) for logits in (student, teacher))
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=2).mean(dim=1)
    return divergence.clamp(min=0) * each.flatten() ** 2


def reverse_kl_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL divergence from the student's softened distribution to the teacher's, times the temperature squared.

    T² · mean over the batch of Σ_c q_c (log q_c - log p_c): a student that cannot follow all of the teacher's classes
    keeps to its likeliest. Classes that the teacher masks with a logit of -inf are left out of both distributions.

    Args:
        student_logits: (B, classes).
        teacher_logits: (B, classes).
        temperature: above 0.

    Returns:
        A scalar of at least 0, in nats times T².

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.

    Source: Gu et al. 2024, MiniLLM, section 2.1 (arXiv 2306.08543), for single predictions in place of sequences.
    """
    check_logits(student_logits, teacher_logits)
    shared = student_logits.masked_fill(teacher_logits == -torch.inf, -torch.inf)
    student, teacher = log_probabilities(shared, teacher_logits, temperature)
    return kl_divergence(student, teacher) * temperature**2


def jensen_shannon_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Jensen-Shannon divergence of the two softened distributions, times the temperature squared.

    T² · mean over the batch of (KL(p, m) + KL(q, m)) / 2, with m = (p + q) / 2.

    Args:
        student_logits: (B, classes).
        teacher_logits: (B, classes).
        temperature: above 0.

    Returns:
        A scalar in [0, T² log 2].

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.

    Source: Lin 1991, section IV, "Divergence measures based on the Shannon entropy" (IEEE Transactions on Information
    Theory 37), with both weights 1/2.
    """
    student, teacher = log_probabilities(student_logits, teacher_logits, temperature)
    middle = torch.logaddexp(student, teacher) - math.log(2)
    return (kl_divergence(student, middle) + kl_divergence(teacher, middle)) / 2 * temperature**2


def logit_mse_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean squared error between the logits, over images and classes; it has no temperature.

    Classes that the teacher masks with a logit of -inf are left out.

    Args:
        student_logits: (B, classes).
        teacher_logits: (B, classes).

    Returns:
        A scalar of at least 0.

    Raises:
        ValueError: the shapes differ.

    Sources: Ba and Caruana 2014, section 2.2 (arXiv 1312.6184); Kim et al. 2021, section 3 (arXiv 2105.08919).
    """
    check_logits(student_logits, teacher_logits)
    student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits)
    is_masked = teacher == -torch.inf
    error = (student - teacher).masked_fill(is_masked, 0)
    return error.square().sum() / (~is_masked).sum().clamp(min=1)


def ttm_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Transformed teacher matching: KL divergence from the teacher's softened distribution to the student's plain one.

    Mean over the batch of Σ_c p_c (log p_c - log q_c), with p = softmax(teacher / T) and q = softmax(student): the
    student is not softened, and there is no factor T². This is KD with a Rényi entropy that regularises the student.

    Args:
        student_logits: (B, classes).
        teacher_logits: (B, classes).
        temperature: above 0; 1 / gamma of the paper, which takes the power gamma of the teacher's probabilities.

    Returns:
        A scalar of at least 0, in nats.

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.

    Source: Zheng and Yang 2024, section 3.2 (arXiv 2402.11148).
    """
    student, teacher = _transformed(student_logits, teacher_logits, temperature)
    return kl_divergence(teacher, student)


def wttm_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Weighted transformed teacher matching: `ttm_loss` with more weight on images where the teacher is less certain.

    Mean over the batch of U · Σ_c p_c (log p_c - log q_c); U = Σ_c softmax(teacher)_c^(1 / T), the sum before the
    powers are made to add up to 1, is above 1 for T above 1, and grows with the teacher's uncertainty.

    Args:
        student_logits: (B, classes).
        teacher_logits: (B, classes).
        temperature: above 0; 1 / gamma of the paper.

    Returns:
        A scalar of at least 0, in nats.

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.

    Source: Zheng and Yang 2024, section 3.4 (arXiv 2402.11148).
    """
    student, teacher = _transformed(student_logits, teacher_logits, temperature)
    plain = F.log_softmax(at_least_float32(teacher_logits), dim=1)
    weight = torch.logsumexp(plain / temperature, dim=1).exp()
    return (weight * kl_divergences(teacher, student)).mean()


def _transformed(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of the student, and of the teacher at the temperature."""
    check_logits(student_logits, teacher_logits, temperature)
    return log_softmax(student_logits), log_softmax(teacher_logits, temperature)


def standardised(logits: Tensor) -> Tensor:
    """Scale each image's logits to mean 0 and standard deviation 1, so that a loss compares their shape alone.

    Classes masked with -inf stay so, and are left out of mean and deviation. Equal logits become 0.

    Args:
        logits: (B, classes).

    Returns:
        (B, classes), in float32 or finer.

    Source: Sun et al. 2024, section 3.3 (arXiv 2403.01427); the deviation has classes - 1 in the denominator, as in
    their code.
    """
    logits = at_least_float32(logits)
    is_masked = logits == -torch.inf
    count = (~is_masked).sum(dim=1, keepdim=True)
    finite = logits.masked_fill(is_masked, 0)
    centred = (finite - finite.sum(dim=1, keepdim=True) / count).masked_fill(is_masked, 0)
    variance = centred.square().sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
    return (centred / (variance + STD_FLOOR**2).sqrt()).masked_fill(is_masked, -torch.inf)


def check_logits(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> None:
    """Raise `ValueError` unless the logits have one shape and the temperature is above 0."""
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} differ"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")


def log_probabilities(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the logarithms of both softened distributions, each (B, classes); see `log_softmax`.

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.
    """
    check_logits(student_logits, teacher_logits, temperature)
    return log_softmax(student_logits, temperature), log_softmax(teacher_logits, temperature)


def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log softmax(logits / T) in float32 or finer, finite where a class is masked by a logit of -inf."""
    return _finite(F.log_softmax(at_least_float32(logits) / temperature, dim=1))


def _finite(log_probability: Tensor) -> Tensor:
    """Replace -inf, whose product with a probability of 0 would be NaN."""
    return log_probability.clamp(min=torch.finfo(log_probability.dtype).min)


def kl_divergences(log_target: Tensor, log_probability: Tensor) -> Tensor:
    """Return Σ_c p_c (log p_c - log q_c) of each image, (B,), of log p and log q, each (B, classes)."""
    return F.kl_div(log_probability, log_target, reduction="none", log_target=True).sum(dim=1).clamp(min=0)


def kl_divergence(log_target: Tensor, log_probability: Tensor) -> Tensor:
    """Return the mean of `kl_divergences` over the batch, rounded up to 0."""
    return F.kl_div(log_probability, log_target, reduction="batchmean", log_target=True).clamp(min=0)
