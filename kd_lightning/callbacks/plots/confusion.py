"""Pictures of which class is taken for which."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from kd_lightning.batch import Batch, as_batch, class_names_of
from kd_lightning.callbacks.plots.write import show
from kd_lightning.callbacks.results import has_own_folder, leaves_files, record, run_folder

MOST_NUMBERS = 30
"""Classes above which the cells carry no numbers: they would not be readable."""

MOST_COUNTED = 2000
"""Classes above which nothing is counted: of 2,000, the counts take 32 MB, of 20,000 3.2 GB."""

MOST_KEPT = 1000
"""Classes above which the counts are not kept: the file would be megabytes of noughts."""


def draw_confusion(counts: Tensor, class_names: Sequence[str], title: str) -> Figure:
    """Draw counts (classes, classes), row = label, column = prediction, as a heat map with numbers."""
    classes = len(class_names)
    side = 2.0 + 0.42 * min(classes, MOST_NUMBERS)
    figure = Figure(figsize=(side, side), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    top = max(1, int(counts.max()))
    axes.imshow(counts.numpy(), cmap="Blues", vmin=0, vmax=top)
    axes.set(title=title, xlabel="predicted", ylabel="label")
    if classes <= MOST_NUMBERS:
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
    """Draws, for every test, the confusion matrix and the heat map of its errors alone.

    Both go beside the results, as `confusion.png` and `errors.png`, and to TensorBoard's images; the counts go into
    the results. Of more than 2,000 classes nothing is counted or drawn, which a line says.

    Source: the second is that of the reproduction of Hinton et al. 2015, section 3, on MNIST.
    """

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
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
        """Count one batch."""
        classes = outputs.shape[-1]
        if classes > MOST_COUNTED:
            return
        if self._counts is None:
            self._counts = MulticlassConfusionMatrix(classes).to(pl_module.device)
        self._counts.update(outputs, as_batch(batch).label)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what was counted."""
        if self._counts is None:
            self._leave_none(trainer)
            return
        counts = self._counts.compute().cpu()  # on every process: it adds up their counts
        run = run_folder(trainer)
        if not trainer.is_global_zero or not leaves_files(trainer):
            return
        run.mkdir(parents=True, exist_ok=True)
        errors = counts - counts.diag().diag()
        names = class_names_of(trainer, len(counts))
        if len(names) <= MOST_KEPT:
            record(trainer, run, class_names=names, confusion=counts.tolist())
        total, wrong = int(counts.sum()), int(errors.sum())
        show(trainer, run / "confusion.png", draw_confusion(counts, names, f"{total - wrong} of {total} right"))
        show(trainer, run / "errors.png", draw_confusion(errors, names, f"{wrong} errors of {total}"))

    def _leave_none(self, trainer: Trainer) -> None:
        """Say that there are too many classes; the pictures of an earlier test go."""
        rank_zero_info(f"confusion matrix: left out, as there are more than {MOST_COUNTED} classes")
        run = run_folder(trainer)
        if trainer.is_global_zero and leaves_files(trainer) and has_own_folder(trainer):
            for name in ("confusion.png", "errors.png"):
                (run / name).unlink(missing_ok=True)
