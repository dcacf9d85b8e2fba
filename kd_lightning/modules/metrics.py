"""Metrics of training and evaluation that do not synchronize with the device at every step."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, SumMetric

from kd_lightning.losses import soft_target_loss

CHECK_EVERY = 50
"""Batches between two checks that wait for the device."""

CALIBRATION_BINS = 15
"""Bins of the expected calibration error, as in its source."""

TOP = 5
TOP_CLASSES = 20
"""Number of classes from which `top5_accuracy` is measured: of fewer, five are too large a part."""


class RunningMeans:
    """Means over the images of an epoch, summed on the device and read at its end.

    It also finds the first value that is not finite, with its batch: on a CPU at once, on other devices every
    `CHECK_EVERY` batches, so that batches do not wait for the device.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums = self._first_wrong = torch.empty(0)
        self._images = self._batches = 0

    def update(self, values: dict[str, Tensor], images: int) -> str:
        """Add the means of a batch, with the same names in each batch.

        Returns:
            A text such as `soft_loss is not finite in batch 7`; empty if all values are finite.
        """
        means = torch.stack(tuple(values.values())).detach()  # one operation: each costs time
        if self._batches:
            self._sums.add_(means, alpha=images)
        else:
            self._names, self._sums, self._first_wrong = tuple(values), means * images, torch.zeros_like(means)
        self._images += images
        self._batches += 1
        on_cpu = means.device.type == "cpu"
        if on_cpu and math.isfinite(means.sum().item()):
            return ""
        new = ~means.isfinite() & (self._first_wrong == 0)
        self._first_wrong = torch.where(new, self._batches, self._first_wrong)
        return self._wrong() if on_cpu or self._batches % CHECK_EVERY == 0 else ""

    def _wrong(self) -> str:
        found = {name: int(batch) for name, batch in zip(self._names, self._first_wrong.tolist(), strict=True) if batch}
        if not found:
            return ""
        # The loss is the sum of the others, so that another one is the cause.
        batch, _, name = min((batch, name == "loss", name) for name, batch in found.items())
        return f"{name} is not finite in batch {batch}"

    def compute(self) -> tuple[dict[str, Tensor], str]:
        """Return the means by name, and the text of `update`; then reset."""
        means, wrong = dict(zip(self._names, self._sums / max(1, self._images), strict=True)), self._wrong()
        self._start()
        return means, wrong

    def state(self) -> dict[str, Any]:
        """Return the state within an epoch, for a checkpoint."""
        return {
            "names": list(self._names),
            "sums": self._sums.clone(),
            "images": self._images,
            "batches": self._batches,
        }

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore a state."""
        self._names, self._images, self._batches = tuple(state["names"]), state["images"], state["batches"]
        self._sums = state["sums"].to(device)
        self._first_wrong = torch.zeros_like(self._sums)


class InFloat32(nn.Module):
    """Keeps the states of its metrics in float32 when its module is cast: bfloat16 counts only to 256."""

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        """Move states between devices without casting them."""

        def moved(tensor: Tensor) -> Tensor:
            if tensor.is_floating_point():
                tensor = tensor.float()  # its dtype may be another default
            done = fn(tensor)
            return done if done.dtype == tensor.dtype else tensor.to(done.device)

        return super()._apply(moved, *args, **kwargs)


class CalibrationError(Metric):
    """Expected calibration error in [0, 1]: the difference of confidence and accuracy in each bin, weighted by images.

    A bin contains its lower end, and the last one also 1.

    Source: Guo et al. 2017, section 2 (arXiv 1706.04599), except for the ends of the bins.
    """

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, CALIBRATION_BINS), dist_reduce_fx="sum")

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Add a batch: confidence of the prediction, (B,), and whether it is correct, bool (B,)."""
        place = (confidence * CALIBRATION_BINS).long().clamp(0, CALIBRATION_BINS - 1)  # NaN as well
        each = torch.stack([torch.ones_like(confidence), confidence, correct.to(confidence)])
        self.sums.index_add_(1, place, each)

    def bins(self) -> Tensor:
        """Return images, confidence and correct images, each summed by bin over all processes: (3, bins)."""
        with self.sync_context():
            return self.sums.clone()

    def compute(self) -> Tensor:
        """Return the error."""
        images, confidence, correct = self.sums
        return (correct - confidence).abs().sum() / images.sum()


class ClassCounts(Metric):
    """Counts of each class over all images, from which the figures of each class follow exactly.

    A class without images has recall 0, one that is never predicted precision 0, as with scikit-learn's
    `zero_division=0`. The means leave classes out as scikit-learn's do: macro-F1 those with neither images nor
    predictions, balanced accuracy those without images.
    """

    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(3, 0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, label: Tensor, classes: int) -> None:
        """Add a batch: predicted class and label, int64 (B,), below the number of classes."""
        if not self.counts.shape[1]:
            self.counts = label.new_zeros(3, classes)
        one = torch.ones_like(label)
        for row, (place, number) in enumerate(((label, one), (predicted, one), (label, (predicted == label).long()))):
            self.counts[row].index_add_(0, place, number)

    def total(self) -> Tensor:
        """Return images, predictions and correct predictions of each class, of all processes: int64 (3, classes)."""
        with self.sync_context():
            return self.counts.clone()

    def figures(self) -> dict[str, Tensor]:
        """Return `recall` (the accuracy on the images of the class), `precision` and `f1`, each float64 (classes,)."""
        return class_figures(*self.total().cpu())

    def compute(self) -> dict[str, Tensor]:
        """Return `macro_f1`, the mean F1, and `balanced_accuracy`, the mean recall, both in [0, 1]."""
        images, predictions, right = self.counts.cpu()
        figures = class_figures(images, predictions, right)
        macro_f1 = figures["f1"][images + predictions > 0].mean()
        balanced_accuracy = figures["recall"][images > 0].mean()
        means = {"macro_f1": macro_f1, "balanced_accuracy": balanced_accuracy}
        return {name: mean.float().to(self.counts.device) for name, mean in means.items()}


def class_figures(images: Tensor, predictions: Tensor, right: Tensor) -> dict[str, Tensor]:
    """Return recall, precision and F1, each float64 (classes,), of counts int64 (classes,); 0 for 0 / 0."""
    parts = {"recall": (right, images), "precision": (right, predictions), "f1": (2 * right, images + predictions)}
    return {name: part.double() / whole.clamp(min=1) for name, (part, whole) in parts.items()}


class EvaluationMetrics(InFloat32):
    """Figures of a classifier over a whole validation or test set, on any number of devices.

    `accuracy` in [0, 1]; `errors`, the number of misclassified images; `nll`, mean negative log-likelihood of the label
    in nats; `calibration_error`, the expected calibration error in [0, 1] (15 bins, weighted by images); `macro_f1` and
    `balanced_accuracy`, see `ClassCounts`; from 20 classes on `top5_accuracy`, the fraction of images whose label is
    among the five most probable classes; with a teacher `agreement`, the fraction of images with the same prediction of
    student and teacher, and `teacher_kl`, the mean of KL(teacher || student) at temperature 1 in nats; `loss`, the mean
    of the training loss, if given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MeanMetric()
        self.errors = SumMetric()
        self.nll = MeanMetric()
        self.calibration_error = CalibrationError()
        self.classes = ClassCounts()
        self.top5_accuracy = MeanMetric()
        self.agreement = MeanMetric()
        self.teacher_kl = MeanMetric()
        self.loss = MeanMetric()

    def update(
        self, logits: Tensor, label: Tensor, teacher_logits: Tensor | None = None, loss: Tensor | None = None
    ) -> None:
        """Add a batch: logits (B, classes), label (B,), the teacher's logits and a scalar loss, if known."""
        logits = logits.float()
        confidence, predicted = logits.softmax(dim=-1).max(dim=-1)
        correct = predicted == label
        self.accuracy.update(correct.float())
        self.errors.update((~correct).float())
        self.nll.update(F.cross_entropy(logits, label, reduction="none"))
        self.calibration_error.update(confidence, correct)
        self.classes.update(predicted, label, logits.shape[-1])
        if logits.shape[-1] >= TOP_CLASSES:
            self.top5_accuracy.update((logits.topk(TOP).indices == label[:, None]).any(dim=-1).float())
        if teacher_logits is not None:
            self.agreement.update((predicted == teacher_logits.argmax(dim=-1)).float())
            self.teacher_kl.update(soft_target_loss(logits, teacher_logits, temperature=1.0), weight=len(label))
        if loss is not None:
            self.loss.update(loss.float(), weight=len(label))

    def images(self) -> int:
        """Return the number of evaluated images of all processes, each of which has to call this."""
        return int(self.classes.total()[0].sum())

    def constant_prediction(self) -> int | None:
        """Return the class that was predicted for all images although their labels differ; else None."""
        labels, predicted = (counts.nonzero().flatten() for counts in self.classes.total()[:2])
        return int(predicted[0]) if len(predicted) == 1 and len(labels) > 1 else None

    def compute(self) -> dict[str, Tensor]:
        """Return all figures that were measured; then reset."""
        metrics = {name: m for name, m in self.named_children() if isinstance(m, Metric) and m.update_called}
        figures = {name: metric.compute() for name, metric in metrics.items()}
        figures.update(figures.pop("classes", {}))
        for metric in metrics.values():
            metric.reset()
        return figures
