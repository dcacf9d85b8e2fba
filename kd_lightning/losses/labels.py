"""The loss on labels: cross-entropy with smoothing, class weights, mixed labels and unlabelled images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import UNLABELLED

__all__ = ["balanced_weights", "label_loss"]


def label_loss(
    logits: Tensor,
    label: Tensor,
    target: Tensor | None = None,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    unlabelled: bool = False,
) -> Tensor:
    """Compute the mean cross-entropy over the labelled images of a batch, in nats.

    The mean is weighted by `class_weights` for labels, and not weighted for targets, as in
    `torch.nn.functional.cross_entropy`.

    Args:
        logits: (B, classes).
        label: int64 (B,), in [0, classes), or `UNLABELLED`.
        target: float (B, classes), probabilities of the classes of mixed images, in place of the label; zeros for an
            image that is unlabelled.
        class_weights: float (classes,), factor on the loss of each class, at least 0.
        label_smoothing: probability that is spread evenly over all classes, in [0, 1].
        unlabelled: whether the batch may have unlabelled images.

    Returns:
        A scalar; 0 if no image is labelled.

    Source of label smoothing: Szegedy et al. 2016, section 7 (arXiv 1512.00567).
    """
    truth = label if target is None else target
    if not unlabelled:
        return F.cross_entropy(logits, truth, class_weights, label_smoothing=label_smoothing)
    is_labelled = label != UNLABELLED if target is None else target.sum(dim=1) > 0
    each = F.cross_entropy(
        logits, truth, class_weights, ignore_index=UNLABELLED, label_smoothing=label_smoothing, reduction="none"
    ).where(is_labelled, 0)
    images = is_labelled.to(each)
    if target is None and class_weights is not None:
        images = images * class_weights[label.clamp(min=0)]
    return each.sum() / images.sum().clamp(min=torch.finfo(each.dtype).tiny)


def balanced_weights(label: Tensor, classes: int) -> Tensor:
    """Return weights of classes that are inverse to their numbers of images, with a mean of 1 over the images.

    The weight of a class with n of N images is N / (classes with images · n), as scikit-learn's `balanced`; that of a
    class without images is 0.

    Args:
        label: int64 (N,); unlabelled images do not count.
        classes: number of classes.

    Returns:
        float32 (classes,).
    """
    count = torch.bincount(label[label != UNLABELLED], minlength=classes)
    weights = count.sum() / ((count > 0).sum() * count)
    return weights.where(count > 0, 0).float()
