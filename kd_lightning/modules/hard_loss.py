"""The loss of a module on labels, with its options and what it takes from the data."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kd_lightning.batch import UNLABELLED, Batch
from kd_lightning.errors import UserError
from kd_lightning.losses import balanced_weights, label_loss


class HardLoss(nn.Module):
    """Compute the mean cross-entropy with the labels of a batch, and the accuracy; see `label_loss`.

    Args:
        label_smoothing: probability that is spread evenly over all classes, in [0, 1).
        class_weights: factor on the loss of each class, or `balanced`: inverse to its number of training images.

    Raises:
        UserError: an option is out of range.
    """

    weights: Tensor | None

    def __init__(self, label_smoothing: float, class_weights: Sequence[float] | Literal["balanced"] | None) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing: {label_smoothing} found, a number in [0, 1) expected")
        if class_weights is not None and class_weights != "balanced":
            numbers = [float(weight) for weight in class_weights]
            if not all(0 <= number < torch.inf for number in numbers) or not any(numbers):
                raise UserError(f"class_weights: {numbers} found, numbers of at least 0 expected, one above 0")
        self.label_smoothing, self.class_weights = label_smoothing, class_weights
        self.register_buffer("weights", None, persistent=False)
        self._unlabelled = False

    @property
    def is_plain(self) -> bool:
        """Return whether the loss has no option set and all images are labelled."""
        return not self.label_smoothing and self.class_weights is None and not self._unlabelled

    def prepare(self, data: Any, fitting: bool) -> None:
        """Take from a data module what the loss depends on: unlabelled images, and the images of each class.

        Args:
            data: the run's data module; None for plain loaders.
            fitting: whether the module is trained.

        Raises:
            UserError: `balanced` where the labels are not known, or another number of weights than of classes.
        """
        label = getattr(data, "train_label", None)
        self._unlabelled = label is not None and bool((label == UNLABELLED).any())
        if self.class_weights is None:
            return
        if self.class_weights != "balanced":
            classes = getattr(data, "num_classes", len(self.class_weights))
            if len(self.class_weights) != classes:
                raise UserError(f"class_weights: {len(self.class_weights)} found, {classes} expected (the classes)")
            self.weights = torch.tensor(self.class_weights)
        elif label is not None:
            self.weights = balanced_weights(label, data.num_classes)
        elif fitting:
            raise UserError("class_weights: balanced found, numbers expected with plain loaders")

    def forward(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the loss, a scalar in nats, of logits float (B, classes)."""
        if self.weights is not None and self.weights.device != logits.device:
            self.weights = self.weights.to(logits.device)
        return label_loss(logits, batch.label, batch.target, self.weights, self.label_smoothing, self._unlabelled)

    @torch.no_grad()
    def accuracy(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the accuracy on labelled images, in [0, 1]; of a mixed image, its class of most weight counts."""
        label = batch.label if batch.target is None else batch.target.argmax(dim=-1)
        correct = (logits.argmax(dim=-1) == label).float()
        if not self._unlabelled:
            return correct.mean()
        is_labelled = (label != UNLABELLED if batch.target is None else batch.target.sum(dim=-1) > 0).float()
        return (correct * is_labelled).sum() / is_labelled.sum().clamp(min=1)
