"""Metrics of training and evaluation that do not synchronize with the device at every step."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MaxMetric, MeanMetric, Metric, MinMetric, SumMetric

from kd_lightning.losses import soft_target_loss

CHECK_EVERY = 50
"""Batches between two checks that wait for the device."""

CALIBRATION_BINS = 15
"""Bins of the expected calibration error, as in its source."""


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


class EvaluationMetrics(InFloat32):
    """Figures of a classifier over a whole validation or test set, on any number of devices.

    `accuracy` in [0, 1]; `errors`, the number of misclassified images; `nll`, mean negative log-likelihood of the label
    in nats; `calibration_error`, the expected calibration error in [0, 1] (15 bins, weighted by images); with a teacher
    `agreement`, the fraction of images with the same prediction of student and teacher, and `teacher_kl`, the mean of
    KL(teacher || student) at temperature 1 in nats; `loss`, the mean of the training loss, if given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MeanMetric()
        self.errors = SumMetric()
        self.nll = MeanMetric()
        self.calibration_error = CalibrationError()
        self.agreement = MeanMetric()
        self.teacher_kl = MeanMetric()
        self.loss = MeanMetric()
        self._range = nn.ModuleList([MinMetric(), MaxMetric(), MinMetric(), MaxMetric()])  # of predictions, of labels

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
        extremes: Any = zip(self._range, (predicted, predicted, label, label), strict=True)
        for extreme, classes in extremes:
            extreme.update(classes)
        if teacher_logits is not None:
            self.agreement.update((predicted == teacher_logits.argmax(dim=-1)).float())
            self.teacher_kl.update(soft_target_loss(logits, teacher_logits, temperature=1.0), weight=len(label))
        if loss is not None:
            self.loss.update(loss.float(), weight=len(label))

    def images(self) -> int:
        """Return the number of evaluated images of all processes, each of which has to call this."""
        return int(self.calibration_error.bins()[0].sum())

    def constant_prediction(self) -> int | None:
        """Return the class that was predicted for all images although their labels differ; else None."""
        extremes: Any = self._range
        least, most, least_label, most_label = (int(extreme.compute()) for extreme in extremes)
        return least if least == most and least_label < most_label else None

    def compute(self) -> dict[str, Tensor]:
        """Return all figures that were measured; then reset."""
        metrics = {name: m for name, m in self.named_children() if isinstance(m, Metric) and m.update_called}
        figures = {name: metric.compute() for name, metric in metrics.items()}
        for metric in (*metrics.values(), *self._range):
            metric.reset()
        return figures
