"""A loss on the correlations between the predictions of teacher and student."""

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.decoupled import check_factors
from kd_lightning.losses.logits import check_logits
from kd_lightning.utils.precision import at_least_float32

__all__ = ["DISTLoss"]

FLOOR = 1e-8
"""Added to the product of two norms, so that constant predictions have a correlation of 0; as in the paper's code."""


class DISTLoss(nn.Module):
    """Match the predictions' correlation with the teacher's, among the classes of an image and the images of a class.

    T² · (inter · (1 - mean over images of r(q_i, p_i)) + intra · (1 - mean over classes of r(q_c, p_c))), with r
    Pearson's correlation, p and q the softened probabilities of teacher and student, q_i those of an image over all
    classes, q_c those of a class over the batch. A student need not reach the teacher's probabilities, only a linear
    function of them.

    Args:
        inter: factor on the correlations over classes, at least 0; beta in the paper.
        intra: factor on the correlations over images, at least 0; gamma in the paper.

    Raises:
        UserError: a factor is below 0.

    Source: Huang et al. 2022, section 4, equations 8 to 10 (arXiv 2205.10536); inter = intra = 1 with T = 1 on
    ImageNet, 2 with T = 4 on CIFAR-100.
    """

    def __init__(self, inter: float = 1.0, intra: float = 1.0) -> None:
        super().__init__()
        check_factors(inter=inter, intra=intra)
        self.inter, self.intra = inter, intra

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """Compare logits (B, classes).

        Returns:
            A scalar in [0, 2 (inter + intra) T²].

        Raises:
            ValueError: the shapes differ, or the temperature is not above 0.
        """
        check_logits(student_logits, teacher_logits, temperature)
        student, teacher = (
            F.softmax(at_least_float32(logits) / temperature, dim=1) for logits in (student_logits, teacher_logits)
        )
        loss = self.inter * _decorrelation(student, teacher) + self.intra * _decorrelation(student.T, teacher.T)
        return loss * temperature**2


def _decorrelation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - the mean correlation of the rows of two matrices, at least 0."""
    student, teacher = (matrix - matrix.mean(dim=1, keepdim=True) for matrix in (student, teacher))
    norms = student.norm(dim=1) * teacher.norm(dim=1)
    return (1 - ((student * teacher).sum(dim=1) / (norms + FLOOR)).mean()).clamp(min=0)
