"""Losses on logits that treat an image's own class apart from the others; they need labels."""

import torch
from torch import Tensor, nn

from kd_lightning.errors import UserError
from kd_lightning.losses.logits import check_logits, kl_divergence, log_softmax
from kd_lightning.utils.precision import at_least_float32

__all__ = ["DKDLoss", "NKDLoss"]


class DKDLoss(nn.Module):
    """Decoupled knowledge distillation: KD's two parts, on the image's class and on the others, each with its weight.

    T² · mean over the batch of alpha · KL(b_teacher, b_student) + beta · KL(o_teacher, o_student): b is the pair of
    probabilities (class of the label, all others together), o the distribution among the other classes, both at the
    temperature. KD is alpha = 1 with beta = 1 - p, the teacher's probability of all other classes.

    The paper raises the weight of this loss linearly over the first 20 of 240 epochs:
    `soft_weight: {class_path: kd_lightning.WarmUp, init_args: {epochs: 20}}`.

    Args:
        alpha: factor on the part of the image's class, at least 0.
        beta: factor on the part of the other classes, at least 0; the paper has 1 to 8 on CIFAR-100.

    Raises:
        UserError: a factor is below 0.

    Source: Zhao et al. 2022, section 3.2, equation 7 (arXiv 2203.08679).
    """

    def __init__(self, alpha: float = 1.0, beta: float = 8.0) -> None:
        super().__init__()
        check_factors(alpha=alpha, beta=beta)
        self.alpha, self.beta = alpha, beta

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float, label: Tensor) -> Tensor:
        """Compare logits (B, classes); `label` is int64 (B,).

        Returns:
            A scalar of at least 0, in nats times T².

        Raises:
            ValueError: the shapes differ, or the temperature is not above 0.
        """
        check_logits(student_logits, teacher_logits, temperature)
        student_own, student = _own_and_others(student_logits, label, temperature)
        teacher_own, teacher = _own_and_others(teacher_logits, label, temperature)
        own = kl_divergence(_binary(teacher_own, teacher), _binary(student_own, student))
        others = kl_divergence(log_softmax(teacher), log_softmax(student))
        return (self.alpha * own + self.beta * others) * temperature**2


class NKDLoss(nn.Module):
    """Normalised knowledge distillation: soft cross-entropy on the image's class and among the other classes.

    Mean over the batch of -p_y log q_y - gamma · T² · Σ_{c ≠ y} p'_c log q'_c: y is the label's class, p and q are the
    plain probabilities of teacher and student, p' and q' their distributions among the other classes at the
    temperature. It is a cross-entropy, so that its minimum is not 0.

    Args:
        gamma: factor on the part of the other classes, at least 0.

    Raises:
        UserError: gamma is below 0.

    Source: Yang et al. 2023, section 3.1, equation 7 (arXiv 2303.13005), which has T = 1 and gamma = 1.5 on ImageNet.
    """

    def __init__(self, gamma: float = 1.5) -> None:
        super().__init__()
        check_factors(gamma=gamma)
        self.gamma = gamma

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float, label: Tensor) -> Tensor:
        """Compare logits (B, classes); `label` is int64 (B,).

        Returns:
            A scalar of at least 0, in nats.

        Raises:
            ValueError: the shapes differ, or the temperature is not above 0.
        """
        check_logits(student_logits, teacher_logits, temperature)
        student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits)
        place = label[:, None]
        own = -log_softmax(teacher).gather(1, place).exp() * log_softmax(student).gather(1, place)
        student, teacher = (
            log_softmax(_own_and_others(logits, label, temperature)[1]) for logits in (student, teacher)
        )
        others = -(teacher.exp() * student).sum(dim=1)
        return own.mean() + self.gamma * temperature**2 * others.mean()


def _own_and_others(logits: Tensor, label: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return logits / T of each image's class, (B, 1), and of the other classes, (B, classes - 1); all are finite."""
    softened = at_least_float32(logits) / temperature
    softened = softened.clamp(min=torch.finfo(softened.dtype).min)  # a masked class has -inf
    place = label[:, None]
    others = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    return softened.gather(1, place), softened.gather(1, others + (others >= place))


def _binary(own: Tensor, others: Tensor) -> Tensor:
    """Return the log-probabilities of each image's class and of all others together, (B, 2)."""
    return log_softmax(torch.cat([own, others.logsumexp(dim=1, keepdim=True)], dim=1))


def check_factors(**factors: float) -> None:
    """Raise `UserError` unless all factors are at least 0."""
    for name, factor in factors.items():
        if not factor >= 0:
            raise UserError(f"{name}: {factor} found, a number of at least 0 expected")
