"""What is measured, in training and in evaluation, without waiting for the device at every step."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MaxMetric, MeanMetric, Metric, MinMetric, SumMetric

from kd_lightning.losses import soft_target_loss

CHECK_EVERY = 50
"""Batches between two looks at a device that is waited for."""

CALIBRATION_BINS = 15
"""Of the expected calibration error; so many as its source has."""


class RunningMeans:
    """Means over the images of an epoch, summed on the device and read once, at its end.

    Which of them was first not finite, and in which batch, is noted on the way: on a CPU at once, on other devices
    it is read every `CHECK_EVERY` batches, so that no batch waits for it.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums = self._first_wrong = torch.empty(0)
        self._images = self._batches = 0

    def update(self, values: dict[str, Tensor], images: int) -> str:
        """Add a batch: scalars, each the mean over its images, of the same names as all others since the start.

        Returns:
            What was first not finite, such as `soft_loss is not finite in batch 7`; mostly nothing.
        """
        means = torch.stack(tuple(values.values())).detach()  # at once: a small network's step is no longer than this
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
        # The loss is the sum of the others, of which one is to blame.
        batch, _, name = min((batch, name == "loss", name) for name, batch in found.items())
        return f"{name} is not finite in batch {batch}"

    def compute(self) -> tuple[dict[str, Tensor], str]:
        """The means so far, by name, and what was first not finite. Starts anew."""
        means, wrong = dict(zip(self._names, self._sums / max(1, self._images), strict=True)), self._wrong()
        self._start()
        return means, wrong

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of an epoch that is not over."""
        return {
            "names": list(self._names),
            "sums": self._sums.clone(),
            "images": self._images,
            "batches": self._batches,
        }

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a state."""
        self._names, self._images, self._batches = tuple(state["names"]), state["images"], state["batches"]
        self._sums = state["sums"].to(device)
        self._first_wrong = torch.zeros_like(self._sums)


class InFloat32(nn.Module):
    """Keeps what it measures, and its parts do, in float32, whatever its module is cast to: bfloat16 counts to 256."""

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        """Move states as they are told, but cast none."""

        def moved(tensor: Tensor) -> Tensor:
            if tensor.is_floating_point():
                tensor = tensor.float()  # it may have been made where another type was the default
            done = fn(tensor)
            return done if done.dtype == tensor.dtype else tensor.to(done.device)

        return super()._apply(moved, *args, **kwargs)


class CalibrationError(Metric):
    """The expected calibration error, in [0, 1]: how far confidence is from accuracy, bin by bin, weighted by images.

    A bin holds the images whose confidence is at least its lower end and below its upper one; 1 belongs to the last.

    Source: Guo et al. 2017, section 2 (arXiv 1706.04599), but for the ends of the bins.
    """

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, CALIBRATION_BINS), dist_reduce_fx="sum")

    def update(self, confidence: Tensor, right: Tensor) -> None:
        """Add a batch: the probability of the class that was named, (B,), and whether it is the label, bool (B,)."""
        place = (confidence * CALIBRATION_BINS).long().clamp(0, CALIBRATION_BINS - 1)  # NaN too has to fall somewhere
        each = torch.stack([torch.ones_like(confidence), confidence, right.to(confidence)])
        self.sums.index_add_(1, place, each)

    def bins(self) -> Tensor:
        """The images, their confidence and those named right, each summed by bin: (3, bins), of all processes."""
        with self.sync_context():
            return self.sums.clone()

    def compute(self) -> Tensor:
        """The error so far."""
        images, confidence, right = self.sums
        return (right - confidence).abs().sum() / images.sum()


class EvaluationMetrics(InFloat32):
    """Figures of a classifier over a whole validation or test set, right on any number of devices.

    `accuracy` in [0, 1]; `errors`, the number of wrong images; `nll`, mean negative log-likelihood of the label in
    nats; `calibration_error`, the expected calibration error in [0, 1] (15 bins, weighted by images);
    where there is a teacher, `agreement`, the part of the images on which student and teacher name the same class, and
    `teacher_kl`, the mean of KL(teacher || student) at temperature 1 in nats; where it is given, `loss`, the mean of
    the training loss.
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
        """Add a batch: logits (B, classes), label (B,), the teacher's logits (B, classes) and a scalar loss if any."""
        logits = logits.float()
        confidence, predicted = logits.softmax(dim=-1).max(dim=-1)
        right = predicted == label
        self.accuracy.update(right.float())
        self.errors.update((~right).float())
        self.nll.update(F.cross_entropy(logits, label, reduction="none"))
        self.calibration_error.update(confidence, right)
        extremes: Any = zip(self._range, (predicted, predicted, label, label), strict=True)
        for extreme, classes in extremes:
            extreme.update(classes)
        if teacher_logits is not None:
            self.agreement.update((predicted == teacher_logits.argmax(dim=-1)).float())
            self.teacher_kl.update(soft_target_loss(logits, teacher_logits, temperature=1.0), weight=len(label))
        if loss is not None:
            self.loss.update(loss.float(), weight=len(label))

    def images(self) -> int:
        """How many images were measured so far, by all processes: each has to ask."""
        return int(self.calibration_error.bins()[0].sum())

    def constant_prediction(self) -> int | None:
        """The class that all images were said to be, though their labels differ; None as it should be."""
        extremes: Any = self._range
        least, most, least_label, most_label = (int(extreme.compute()) for extreme in extremes)
        return least if least == most and least_label < most_label else None

    def compute(self) -> dict[str, Tensor]:
        """All figures of which there was something to measure. Starts anew."""
        metrics = {name: m for name, m in self.named_children() if isinstance(m, Metric) and m.update_called}
        figures = {name: metric.compute() for name, metric in metrics.items()}
        for metric in (*metrics.values(), *self._range):
            metric.reset()
        return figures
