"""A picture of how far a network's confidence can be believed."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.callbacks.plots.write import show
from kd_lightning.callbacks.results import leaves_files, run_folder


def draw_reliability(bins: Tensor, title: str) -> Figure:
    """Draw accuracy against confidence, bin by bin, beside the diagonal; and below it how many images each bin holds.

    Args:
        bins: (3, bins): the images, their confidence and those named right, each summed by bin.
        title: above the picture.

    Source: Guo et al. 2017, figure 1 (arXiv 1706.04599).
    """
    images, confidence, right = bins
    lower = torch.arange(len(images)) / len(images)
    there = images > 0
    accuracy, said = (right / images)[there].tolist(), (confidence / images)[there].tolist()
    figure = Figure(figsize=(4.2, 4.8), layout="constrained", dpi=110)
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    bar = {"width": 1 / len(images), "align": "edge", "edgecolor": "white"}
    above.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
    above.bar(lower[there].tolist(), accuracy, color="tab:blue", label="accuracy", **bar)
    above.plot(said, accuracy, "o", color="black", markersize=3, label="at its mean confidence")
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    above.set_title(title, fontsize=10)
    above.legend(loc="upper left", fontsize=8)
    below.bar(lower.tolist(), images.tolist(), color="grey", **bar)
    below.set(xlabel="confidence", ylabel="images", yscale="symlog", ylim=(0, None))
    return figure


class ReliabilityDiagram(Callback):
    """Draws, for every test, accuracy against confidence: `reliability.png` beside the results, and in TensorBoard."""

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bins of the calibration error."""
        metrics: Any = pl_module.evaluation
        bins = metrics.calibration_error.bins().cpu()  # on every process: it adds up their sums
        file = run_folder(trainer) / "reliability.png"
        if trainer.is_global_zero and leaves_files(trainer):
            images, confidence, right = bins.sum(dim=1).tolist()
            gap = (bins[2] - bins[1]).abs().sum().item() / images
            said = f"{confidence / images:.1%} sure, {right / images:.1%} right; calibration error {gap:.3f}"
            show(trainer, file, draw_reliability(bins, said))
