"""What is measured, in training and in evaluation, without waiting for the device at every step."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, SumMetric
from torchmetrics.classification import BinaryCalibrationError

CALIBRATION_BINS = 15
"""Of the expected calibration error, as in Guo et al. 2017, section 2 (arXiv 1706.04599)."""


class RunningMeans:
    """Means over the images of an epoch, summed on the device and read once, at its end."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums = torch.empty(0)
        self._images = 0

    def update(self, values: dict[str, Tensor], images: int) -> None:
        """Add a batch: scalars, each the mean over its images, of the same names as all others since the start."""
        means = torch.stack(tuple(values.values())).detach()  # at once: a small network's step is no longer than this
        if self._images:
            self._sums.add_(means, alpha=images)
        else:
            self._names, self._sums = tuple(values), means.mul_(images)
        self._images += images

    def compute(self) -> dict[str, Tensor]:
        """The means so far, by name; empty before the first batch. Starts anew."""
        means = dict(zip(self._names, self._sums / max(1, self._images), strict=True))
        self._names, self._sums, self._images = (), torch.empty(0), 0
        return means

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of an epoch that is not over."""
        return {"names": list(self._names), "sums": self._sums, "images": self._images}

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a state."""
        self._names, self._images = tuple(state["names"]), state["images"]
        self._sums = state["sums"].to(device)


class EvaluationMetrics(nn.Module):
    """Figures of a classifier over a whole validation or test set, right on any number of devices.

    `accuracy` in [0, 1]; `errors`, the number of wrong images; `nll`, mean negative log-likelihood of the label in
    nats; `calibration_error`, the expected calibration error in [0, 1] (15 bins, weighted by images);
    `agreement`, the part of the images on which student and teacher name the same class, where there is a teacher.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MeanMetric()
        self.errors = SumMetric()
        self.nll = MeanMetric()
        self.calibration_error = BinaryCalibrationError(n_bins=CALIBRATION_BINS, norm="l1")
        self.agreement = MeanMetric()

    def update(self, logits: Tensor, label: Tensor, teacher_logits: Tensor | None = None) -> None:
        """Add a batch: logits (B, classes), label (B,), the teacher's logits (B, classes) if any."""
        logits = logits.float()
        confidence, predicted = logits.softmax(dim=-1).max(dim=-1)
        right = predicted == label
        self.accuracy.update(right.float())
        self.errors.update((~right).float())
        self.nll.update(F.cross_entropy(logits, label, reduction="none"))
        # Top-class calibration is the binary question "is this prediction right?".
        # A confidence of 1 belongs to the last bin; torchmetrics would give it one of its own.
        self.calibration_error.update(confidence.clamp(max=1 - 1e-6), right.long())
        if teacher_logits is not None:
            self.agreement.update((predicted == teacher_logits.argmax(dim=-1)).float())

    def compute(self) -> dict[str, Tensor]:
        """All figures of which there was something to measure. Starts anew."""
        metrics = {name: m for name, m in self.named_children() if isinstance(m, Metric) and m.update_called}
        figures = {name: metric.compute() for name, metric in metrics.items()}
        for metric in metrics.values():
            metric.reset()
        return figures


def first_not_finite(figures: dict[str, Tensor]) -> str | None:
    """Name the first figure that is not a finite number, with its value; None if all are."""
    return next((f"{name} is {v.item()}" for name, v in figures.items() if not torch.isfinite(v)), None)
