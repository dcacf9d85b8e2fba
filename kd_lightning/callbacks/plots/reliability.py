"""Plot of accuracy against confidence."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.callbacks.plots.write import show
from kd_lightning.callbacks.results import leaves_files
from kd_lightning.utils.run_folder import run_folder


def draw_reliability(bins: Tensor, title: str) -> Figure:
    """Draw the accuracy of each confidence bin beside the diagonal, and below it the number of images in each bin.

    Args:
        bins: (3, bins): number of images, sum of their confidences and number of correct ones, by bin.
        title: title of the figure.

    Source: Guo et al. 2017, figure 1 (arXiv 1706.04599).
    """
    images, confidence, correct = bins
    lower = torch.arange(len(images)) / len(images)
    filled = images > 0
    accuracy, mean_confidence = (correct / images)[filled].tolist(), (confidence / images)[filled].tolist()
    figure = Figure(figsize=(4.2, 4.8), layout="constrained", dpi=110)
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    bar = {"width": 1 / len(images), "align": "edge", "edgecolor": "white"}
    above.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
    above.bar(lower[filled].tolist(), accuracy, color="tab:blue", label="accuracy", **bar)
    above.plot(mean_confidence, accuracy, "o", color="black", markersize=3, label="at its mean confidence")
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    above.set_title(title, fontsize=10)
    above.legend(loc="upper left", fontsize=8)
    below.bar(lower.tolist(), images.tolist(), color="grey", **bar)
    below.set(xlabel="confidence", ylabel="images", yscale="symlog", ylim=(0, None))
    return figure


class ReliabilityDiagram(Callback):
    """Draws accuracy against confidence of a test: `reliability.png` in the run folder, and a TensorBoard image."""

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bins of the calibration error."""
        metrics: Any = pl_module.evaluation
        bins = metrics.calibration_error.bins().cpu()  # on every process: it sums over them
        file = run_folder(trainer) / "reliability.png"
        if trainer.is_global_zero and leaves_files(trainer):
            images, confidence, correct = bins.sum(dim=1).tolist()
            gap = (bins[2] - bins[1]).abs().sum().item() / images
            title = (
                f"confidence {confidence / images:.1%}, accuracy {correct / images:.1%}, calibration error {gap:.3f}"
            )
            show(trainer, file, draw_reliability(bins, title))
