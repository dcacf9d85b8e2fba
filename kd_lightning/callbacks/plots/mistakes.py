"""Plot of the test images with the highest loss, beside the probabilities of network and teacher."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.batch import Batch, as_batch, data_of
from kd_lightning.callbacks.plots.write import show
from kd_lightning.callbacks.results import leaves_files
from kd_lightning.utils.run_folder import has_own_folder, run_folder

MAX_MISTAKES, COLUMNS = 8, 4
"""Mistakes in the plot, and in a row of it."""

MAX_BARS = 10
"""Classes with a bar; of more classes, the label and the most probable ones."""

MAX_NAME_LENGTH = 12
"""Characters of a class name in the plot."""

COLOURS = {"student": "tab:orange", "teacher": "tab:blue", "network": "tab:orange"}

CORRECT = -1.0
"""In place of the loss of a correctly classified image; below every loss."""


class Mistakes(NamedTuple):
    """N misclassified images.

    Attributes:
        loss: float (N,), the cross-entropy with the label in nats, or `CORRECT`.
        image_index: int64 (N,), in the test set.
        label: int64 (N,).
        logits: float (N, 1 or 2, classes), of the network and of its teacher, if it has one.
    """

    loss: Tensor
    image_index: Tensor
    label: Tensor
    logits: Tensor

    def worst(self) -> "Mistakes":
        """Return those with the highest loss, highest first."""
        return Mistakes(*(tensor[_highest(self.loss)] for tensor in self))

    def padded(self) -> "Mistakes":
        """Return `MAX_MISTAKES` rows, the added ones marked correct: processes can only gather equal sizes."""
        missing = MAX_MISTAKES - len(self.loss)
        padded = [torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) for tensor in self]
        padded[0][len(self.loss) :] = CORRECT
        return Mistakes(*padded)


class WorstMistakes(Callback):
    """Draws the misclassified test images with the highest loss, with the class probabilities.

    A student's probabilities are beside its teacher's, both softened at the student's temperature. The plot is saved as
    `mistakes.png` in the run folder and as a TensorBoard image.
    """

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the worst mistakes."""
        self._worst: Mistakes | None = None

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep index and logits of the worst mistakes so far; nothing waits for the device."""
        batch = as_batch(batch)
        correct = outputs.argmax(dim=-1) == batch.label
        loss = F.cross_entropy(outputs, batch.label, reduction="none").masked_fill(correct, CORRECT)
        rows, teacher = _highest(loss), pl_module.last_teacher_logits
        both: list[Any] = [outputs] if teacher is None else [outputs, teacher]
        logits = torch.stack([each[rows] for each in both], dim=1)
        new = Mistakes(loss[rows], batch.index[rows], batch.label[rows], logits)
        self._worst = new if self._worst is None else _joined(self._worst, new).worst()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the worst mistakes of all processes."""
        assert self._worst is not None  # a test has images
        worst: Any = pl_module.all_gather(self._worst.padded() if trainer.world_size > 1 else self._worst)
        data, file = data_of(trainer), run_folder(trainer) / "mistakes.png"
        if not trainer.is_global_zero or not leaves_files(trainer):
            return
        if not hasattr(data, "make_batch"):  # not a data module of this project
            return
        found = _distinct(Mistakes(*(tensor.flatten(0, 1) for tensor in worst)) if trainer.world_size > 1 else worst)
        if not len(found.loss):
            if has_own_folder(trainer):
                file.unlink(missing_ok=True)  # of an earlier test
            return
        mean, std = (values.view(-1, 1, 1) for values in (data.mean, data.std))
        images = data.make_batch(found.image_index, train=False).image.cpu() * std + mean
        temperature = getattr(pl_module, "temperature", 1.0)
        names = ("student", "teacher")[: found.logits.shape[1]] if hasattr(pl_module, "teacher") else ("network",)
        softened = (found.logits.cpu() / temperature).softmax(dim=-1)
        probabilities = dict(zip(names, softened.unbind(dim=1), strict=True))
        label, predicted = found.label.tolist(), found.logits[:, 0].argmax(dim=-1).tolist()
        title = f"worst mistakes and class probabilities at temperature {temperature:g}"
        figure = draw_mistakes(images.clamp(0, 1), label, predicted, probabilities, data.class_names, title)
        show(trainer, file, figure)


def _highest(loss: Tensor) -> Tensor:
    return loss.topk(min(MAX_MISTAKES, len(loss))).indices


def _joined(some: Mistakes, others: Mistakes) -> Mistakes:
    return Mistakes(*(torch.cat(pair) for pair in zip(some, others, strict=True)))


def _distinct(found: Mistakes) -> Mistakes:
    """Return the worst without duplicates and correct ones: processes share a test set by repeating some images."""
    rows: dict[int, int] = {}
    for row in found.loss.argsort(descending=True).tolist():
        if found.loss[row] != CORRECT:
            rows.setdefault(int(found.image_index[row]), row)
    return Mistakes(*(tensor[list(rows.values())[:MAX_MISTAKES]] for tensor in found))


def draw_mistakes(
    images: Tensor,
    label: Sequence[int],
    predicted: Sequence[int],
    probabilities: dict[str, Tensor],
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """Draw images, each beside the class probabilities of every network.

    Args:
        images: float (N, C, H, W) in [0, 1]; in colour if C is 3.
        label: of each image.
        predicted: of each image.
        probabilities: (N, classes) by network name.
        class_names: of all classes.
        title: title of the figure.
    """
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    width, height = max(3.0 * columns, 4.5), 1.9 * rows + 0.8
    figure = Figure(figsize=(width, height), dpi=110)
    figure.suptitle(title, y=1 - 0.1 / height, fontsize=11)
    edges = {"left": 0.1 / width, "right": 1 - 0.1 / width, "bottom": 0.5 / height, "top": 1 - 0.6 / height}
    cells = figure.add_gridspec(rows, columns, wspace=0.08, hspace=0.35, **edges)
    names = [name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…" for name in class_names]
    highest = max(float(each.max()) for each in probabilities.values())
    for number, image in enumerate(images):
        cell = cells[divmod(number, columns)].subgridspec(1, 2, width_ratios=[4, 3], wspace=0.56)
        picture, bars = (figure.add_subplot(cell[side]) for side in (0, 1))
        pixels = image.movedim(0, -1) if len(image) == 3 else image.mean(dim=0)
        picture.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1)
        picture.set_axis_off()
        caption = f"{names[label[number]]}, predicted {names[predicted[number]]}"
        picture.set_title(caption, fontsize=8, loc="left", parse_math=False)
        _draw_bars(bars, {name: each[number] for name, each in probabilities.items()}, label[number], names)
        bars.set_xlim(0, 1.05 * highest)
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=8, frameon=False)
    return figure


def _draw_bars(axes: Axes, probabilities: dict[str, Tensor], label: int, names: Sequence[str]) -> None:
    """Draw the class probabilities (classes,) of an image by network, the label in bold."""
    highest = torch.stack(tuple(probabilities.values())).amax(dim=0)
    highest[label] = torch.inf  # the label always has a bar
    shown = sorted(highest.topk(min(MAX_BARS, len(highest))).indices.tolist())
    thickness = 0.8 / len(probabilities)
    for number, (name, probability) in enumerate(probabilities.items()):
        places = [place - 0.4 + (number + 0.5) * thickness for place in range(len(shown))]
        axes.barh(places, probability[shown].tolist(), thickness, color=COLOURS[name], label=name)
    axes.locator_params(axis="x", nbins=3)
    axes.set_yticks(range(len(shown)), [names[c] for c in shown], parse_math=False)
    axes.get_yticklabels()[shown.index(label)].set_fontweight("bold")
    axes.invert_yaxis()
    axes.tick_params(labelsize=6, length=2, pad=2)
