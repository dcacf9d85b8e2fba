"""The contrastive loss: tell the features of one image from those of different images, with memory banks."""

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from kd_lightning.batch import UNLABELLED
from kd_lightning.errors import UserError
from kd_lightning.losses.layers import mismatch, one_vector, unit
from kd_lightning.utils.precision import at_least_float32, without_autocast

__all__ = ["CRDLoss"]

NOT_TRAINED_ON = -1
"""Label of rows of the memory banks whose images are not trained on."""

STUDENT, TEACHER = 0, 1


class CRDLoss(nn.Module):
    """Contrastive representation distillation: bind student's and teacher's features of one image, not of two classes.

    Both features are projected to unit vectors, v_s and v_t. Two memory banks, m_s and m_t, keep a running mean of each
    training image's vectors. The loss is the mean over the images i of

    l(-x(v_s, m_t(i))) + Σ_k l(x(v_s, m_t(k))) + l(-x(v_t, m_s(i))) + Σ_k l(x(v_t, m_s(k))),

    with l(x) = log(1 + exp x), x(v, m) = v·m / T - log Z - log(K / N), N training images, and K images k of other
    classes, drawn anew for each i, without replacement if there are as many. Z is N · mean of exp(v·m / T) in the first
    batch, one for each bank. After each batch its vectors in the banks become unit(momentum · m + (1 - momentum) · v).

    In evaluation nothing is remembered. Maps (B, C, H, W) and tokens (B, N, C) are averaged first. The projections are
    trained with the student and are no part of it; the banks are in its checkpoints. Computed in float32 (float64
    stays).

    Args:
        student_width: C of the student's features.
        teacher_width: C of the teacher's.
        width: of the projected features.
        negatives: K, images of other classes for each image.
        temperature: T, above 0.
        momentum: share of its old value that a vector in memory keeps, in [0, 1).

    Source: Tian et al. 2020, section 3 and appendix (arXiv 1910.10699); the negatives' classes, Z and the defaults are
    those of their code, RepDistiller.
    """

    student_memory: Tensor
    teacher_memory: Tensor
    row_label: Tensor
    log_normaliser: Tensor

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        width: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        if negatives < 1:
            raise UserError(f"negatives: {negatives} found, at least 1 expected")
        if not temperature > 0:
            raise UserError(f"temperature: {temperature} found, a number above 0 expected")
        if not 0 <= momentum < 1:
            raise UserError(f"momentum: {momentum} found, a number from 0 to below 1 expected")
        self.negatives, self.temperature, self.momentum = negatives, temperature, momentum
        self.student_projection = nn.Linear(student_width, width)
        self.teacher_projection = nn.Linear(teacher_width, width)
        # A row for each index up to the highest one that is trained on.
        self.register_buffer("student_memory", torch.empty(0, width))
        self.register_buffer("teacher_memory", torch.empty(0, width))
        self.register_buffer("row_label", torch.empty(0, dtype=torch.int64))
        self.register_buffer("log_normaliser", torch.full((2,), torch.inf))  # of each bank, from the first batch on
        self._prepared_for: Tensor | None = None
        self._count()

    def prepare(self, data: Any) -> None:
        """Make the memory banks for the training images of a data module, unless they are there already.

        Args:
            data: has `train_label`, int64 (n,), and the indices of these images in `train_positions`; without these,
                the labels are those of the images 0 to n - 1.

        Raises:
            UserError: the number of images or their labels are not known, some have no label, or all have the same.
        """
        label = getattr(data, "train_label", None)
        if label is None:
            raise UserError(
                f"CRDLoss: {type(data).__name__} found, whose number of images and labels are not known, data with "
                "train_label expected, which its memory is made for"
            )
        if unlabelled := int((label == UNLABELLED).sum()):
            raise UserError(
                f"CRDLoss: {unlabelled} unlabelled training images found, a label for each expected, as it contrasts "
                "images of different classes"
            )
        if len(label.unique()) < 2:
            raise UserError("CRDLoss: training images of one class found, at least two classes expected to contrast")
        positions = getattr(data, "train_positions", torch.arange(len(label)))
        row_label = torch.full((int(positions.max()) + 1,), NOT_TRAINED_ON)
        row_label[positions.cpu()] = label.cpu()
        self._prepared_for = row_label
        if torch.equal(row_label, self.row_label.cpu()):
            return
        weight = self.student_projection.weight
        bound = math.sqrt(3 / weight.shape[0])  # of unit vectors in the mean
        for name in ("student_memory", "teacher_memory"):
            memory = torch.rand(len(row_label), weight.shape[0], dtype=weight.dtype) * 2 - 1
            setattr(self, name, (memory * bound).to(weight.device))
        self.row_label = row_label.to(weight.device)
        self.log_normaliser = torch.full_like(self.log_normaliser, torch.inf)
        self._count()

    def forward(self, student_features: Tensor, teacher_features: Tensor, index: Tensor, label: Tensor) -> Tensor:
        """Compare two layers' outputs, each (B, C), (B, N, C) or (B, C, H, W).

        Args:
            student_features: C is `student_width`.
            teacher_features: C is `teacher_width`.
            index: int64 (B,), of the training images.
            label: int64 (B,).

        Returns:
            A scalar of at least 0.

        Raises:
            ValueError: the batches differ, a width is another one, or an index is not that of a training image.
        """
        self._check(student_features, teacher_features, index)
        with without_autocast(student_features.device.type):
            student = _projected(student_features, self.student_projection)
            teacher = _projected(teacher_features, self.teacher_projection)
            is_negative = (self.row_label != label.unsqueeze(1)) & (self.row_label != NOT_TRAINED_ON)
            to_teacher = student @ self.teacher_memory.to(student.dtype).T
            to_student = teacher @ self.student_memory.to(teacher.dtype).T
        rows = torch.cat([index.unsqueeze(1), self._draw(is_negative)], dim=1)
        loss = self._contrast(to_teacher.gather(1, rows), TEACHER) + self._contrast(to_student.gather(1, rows), STUDENT)
        if self.training:
            self._remember(index, student.detach(), teacher.detach())
        return loss

    def _contrast(self, cosine: Tensor, bank: int) -> Tensor:
        """Compute the loss of one network's vectors against the other's bank.

        Args:
            cosine: (B, 1 + K), with the vectors in the bank: first the image's own, then the negatives'.
            bank: `STUDENT` or `TEACHER`.
        """
        score = cosine / self.temperature
        with torch.no_grad():
            log_mean = score.flatten().logsumexp(dim=0) - math.log(score.numel())
            stored = self.log_normaliser[bank]
            log_z = torch.where(stored.isinf(), log_mean + math.log(self._images), stored)
            if self.training:
                self.log_normaliser[bank] = log_z
        shifted = score - (log_z + math.log(self.negatives / self._images))
        return -(F.logsigmoid(shifted[:, 0]) + F.logsigmoid(-shifted[:, 1:]).sum(dim=1)).mean()

    def _draw(self, is_negative: Tensor) -> Tensor:
        """Draw K rows for each image, int64 (B, K), from those where `is_negative`, (B, N)."""
        return torch.multinomial(is_negative.float(), self.negatives, replacement=self.negatives > self._fewest)

    @torch.no_grad()
    def _remember(self, index: Tensor, student: Tensor, teacher: Tensor) -> None:
        if dist.is_available() and dist.is_initialized():  # every process has the same banks
            index, student, teacher = (torch.cat(gather_all_tensors(each)) for each in (index, student, teacher))
        for name, vectors in (("student_memory", student), ("teacher_memory", teacher)):
            memory = getattr(self, name)
            old = at_least_float32(memory[index])
            new = unit(self.momentum * old + (1 - self.momentum) * vectors)
            # A copy: the backward pass needs the old bank.
            setattr(self, name, memory.index_copy(0, index, new.to(memory.dtype)))

    def _check(self, student_features: Tensor, teacher_features: Tensor, index: Tensor) -> None:
        widths = self.student_projection.in_features, self.teacher_projection.in_features
        shapes = [one_vector(each.detach()).shape for each in (student_features, teacher_features)]
        images = student_features.shape[:1]
        if shapes != [(*images, widths[0]), (*images, widths[1])]:
            expected = f"as many images, and widths of {widths[0]} and {widths[1]},"
            raise mismatch(student_features, teacher_features, expected)
        if not len(self.row_label):
            raise ValueError("CRDLoss has no memory: its prepare(data) is called before training")
        # On a GPU, reading the indices would wait for it.
        if index.device.type == "cpu" and (index.min() < 0 or index.max() >= len(self.row_label)):
            raise ValueError(
                f"CRDLoss: index {int(index.min())} to {int(index.max())} found, 0 to {len(self.row_label) - 1} "
                "expected: the images that its memory was made for"
            )

    def _count(self) -> None:
        """Count the images in the memory, and the fewest that are of another class than an image."""
        label = self.row_label[self.row_label != NOT_TRAINED_ON]
        self._images = max(1, len(label))
        self._fewest = len(label) - int(label.bincount().max()) if len(label) else 0

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take the banks' sizes from the state, as a test, an export or a resumed training has not made them."""
        saved = state_dict.get(f"{prefix}row_label")
        if saved is not None and self._prepared_for is not None and not torch.equal(saved.cpu(), self._prepared_for):
            found, expected = ((each != NOT_TRAINED_ON).sum().item() for each in (saved, self._prepared_for))
            raise UserError(
                f"CRDLoss: a memory of {found} images found in the checkpoint, the {expected} training images of the "
                "data expected, with the same labels"
            )
        if saved is not None:
            for name in ("student_memory", "teacher_memory", "row_label"):
                buffer = getattr(self, name)
                setattr(self, name, buffer.new_zeros(len(saved), *buffer.shape[1:]))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._count()


def _projected(features: Tensor, projection: nn.Linear) -> Tensor:
    """Project features to unit vectors, in float32 or finer whatever the precision of features and projection."""
    vectors = at_least_float32(one_vector(features))
    dtype = torch.promote_types(vectors.dtype, projection.weight.dtype)
    return unit(F.linear(vectors.to(dtype), projection.weight.to(dtype), projection.bias.to(dtype)))
