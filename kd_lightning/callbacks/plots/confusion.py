"""Plots of the confusion matrix and of its errors."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from kd_lightning.batch import Batch, as_batch, class_names_of
from kd_lightning.callbacks.plots.write import show
from kd_lightning.callbacks.results import leaves_files, record, writer_of
from kd_lightning.utils.run_folder import has_own_folder, run_folder

MAX_CLASSES_WITH_NUMBERS = 30
"""With more classes, the cells have no numbers, which would be unreadable."""

MAX_CLASSES = 2000
"""With more classes, there is no confusion matrix: for 2,000 classes it takes 32 MB, for 20,000 3.2 GB."""

MAX_CLASSES_IN_RESULTS = 1000
"""With more classes, the counts are not in the results: the file would hold megabytes of zeros."""


def draw_confusion(counts: Tensor, class_names: Sequence[str], title: str) -> Figure:
    """Draw counts (classes, classes), row = label, column = prediction, as a heat map with numbers."""
    classes = len(class_names)
    side = 2.0 + 0.42 * min(classes, MAX_CLASSES_WITH_NUMBERS)
    figure = Figure(figsize=(side, side), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    top = max(1, int(counts.max()))
    axes.imshow(counts.numpy(), cmap="Blues", vmin=0, vmax=top)
    axes.set(title=title, xlabel="predicted", ylabel="label")
    if classes <= MAX_CLASSES_WITH_NUMBERS:
        turn = 90 if max(map(len, class_names)) > 3 else 0
        axes.set_xticks(range(classes), class_names, rotation=turn, parse_math=False)
        axes.set_yticks(range(classes), class_names, parse_math=False)
        for label, row in enumerate(counts.tolist()):
            for predicted, count in enumerate(row):
                if count:
                    colour = "white" if count > top / 2 else "black"
                    axes.text(
                        predicted,
                        label,
                        str(count),
                        ha="center",
                        va="center",
                        color=colour,
                        fontsize=8,
                        in_layout=False,
                    )
    return figure


class ConfusionMatrix(Callback):
    """Draws the confusion matrix of a test, and a heat map of its errors only.

    They are saved as `confusion.png` and `errors.png` in the run folder and as TensorBoard images; the counts are part
    of the results. Above 2,000 classes nothing is counted or drawn, and a line is printed.
    """

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the counts."""
        self._counts: MulticlassConfusionMatrix | None = None

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the predictions of a batch."""
        classes = outputs.shape[-1]
        if classes > MAX_CLASSES:
            return
        if self._counts is None:
            self._counts = MulticlassConfusionMatrix(classes).to(pl_module.device)
        self._counts.update(outputs, as_batch(batch).label)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw both plots."""
        if self._counts is None:
            self._skip(trainer)
            return
        counts = self._counts.compute().cpu()  # in all processes, whose counts it adds
        run = run_folder(trainer)
        if not trainer.is_global_zero or not leaves_files(trainer):
            return
        run.mkdir(parents=True, exist_ok=True)
        errors = counts - counts.diag().diag()
        names = class_names_of(trainer, len(counts))
        if writer_of(trainer) and len(names) <= MAX_CLASSES_IN_RESULTS:
            record(trainer, run, class_names=names, confusion=counts.tolist())
        total, wrong = int(counts.sum()), int(errors.sum())
        show(trainer, run / "confusion.png", draw_confusion(counts, names, f"{total - wrong} of {total} correct"))
        show(trainer, run / "errors.png", draw_confusion(errors, names, f"{wrong} errors of {total}"))

    def _skip(self, trainer: Trainer) -> None:
        """Print that there are too many classes, and delete the plots of an earlier test."""
        rank_zero_info(f"confusion matrix: left out, as there are more than {MAX_CLASSES} classes")
        run = run_folder(trainer)
        if trainer.is_global_zero and leaves_files(trainer) and has_own_folder(trainer):
            for name in ("confusion.png", "errors.png"):
                (run / name).unlink(missing_ok=True)
