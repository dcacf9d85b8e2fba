"""Checks of networks, losses and data before and during training, each with an error that names the cause."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from kd_lightning.batch import UNLABELLED, Batch, data_of
from kd_lightning.checkpoints.description import compare_with_data, listed
from kd_lightning.errors import DivergedError, UserError, one_line
from kd_lightning.utils.eval_mode import eval_mode
from kd_lightning.utils.network_output import logits_of
from kd_lightning.utils.progress import status

REMEDY = "a finite number expected; the last good checkpoint is kept; a lower lr or gradient_clip_val may help"

TEACHER_IMAGES = 200
"""Training images on which a teacher's accuracy is compared with chance."""


class NetworkCheck:
    """Compare networks with the data by running them on two blank images before any step.

    Also finds the memory format that all networks can read. Plain data (a `DataLoader`, or a data module without
    `image_shape`) does not state the shape of its images: then the check `is_due` until the first batch.

    Args:
        compiled: whether the networks are compiled; the check runs them eagerly.
    """

    def __init__(self, compiled: bool) -> None:
        self.memory_format = torch.channels_last
        self.image_shape: tuple[int, ...] | None = None
        self.is_due = False
        self._compiled = compiled
        self.classes: int | None = None
        self._source = "data"

    def prepare(self, data: Any) -> None:
        """Take image shape and number of classes from a data module, if it has them."""
        self.image_shape, self.classes = getattr(data, "image_shape", None), getattr(data, "num_classes", None)
        self._source = "data" if hasattr(data, "num_classes") else "student"
        self.is_due = self.image_shape is None

    def check(
        self,
        network: nn.Module,
        name: str,
        select: Callable[[Any], Any] = lambda output: output,
        required: bool = True,
    ) -> bool:
        """Run a network on two blank images, and compare its outputs with the data.

        Args:
            network: images to logits.
            name: the network's role, for errors.
            select: the network's output to its logits of the data's classes.
            required: whether another output than logits is an error.

        Returns:
            Whether the network returns logits, as far as it is known.

        Raises:
            UserError: the network cannot read the images, returns no logits, or has another number of classes.
        """
        if self.image_shape is None:
            network.to(memory_format=self.memory_format)
            return True
        with torch.compiler.set_stance("force_eager") if self._compiled else nullcontext():
            output, self.memory_format = read_blank_images(network, name, self.image_shape, self.memory_format)
        logits = select(output)
        if not required and not _are_logits(network, logits, self.classes):
            return False
        self.classes = check_logits(network, name, logits, self.classes, self._source)
        return True

    def check_labels(self, label: Tensor) -> None:
        """Raise `UserError` for a label that is not a class of the network; labels on a GPU are not read."""
        highest = int(label.max()) if len(label) and label.device.type == "cpu" else 0
        if self.classes and highest >= self.classes:
            raise UserError(f"data: label {highest} found, 0 to {self.classes - 1} expected (the network's classes)")


def read_blank_images(
    network: nn.Module, name: str, shape: tuple[int, ...], memory_format: torch.memory_format
) -> tuple[Any, torch.memory_format]:
    """Run a network on two blank images, and find the memory format that it can read.

    Convolutions are fastest on channels last. A network that reshapes feature maps with `view` cannot read it, and
    gets the contiguous format.

    Args:
        network: images to logits; it is converted to the memory format.
        name: the network's role, for errors.
        shape: of one image.
        memory_format: the format to try first.

    Returns:
        The network's output, and the memory format.

    Raises:
        UserError: the network cannot read such images.
    """
    network.to(memory_format=memory_format)
    parameter = next(network.parameters(), torch.empty(0))
    image = torch.zeros(2, *shape, device=parameter.device, dtype=parameter.dtype)
    try:
        with eval_mode(network), torch.no_grad():
            return logits_of(network(image.to(memory_format=memory_format))), memory_format
    except UserError:  # of a feature hook
        raise
    except Exception as error:  # any network may be given
        if memory_format == torch.channels_last:
            return read_blank_images(network, name, shape, torch.contiguous_format)
        size = "x".join(map(str, shape))
        raise UserError(f"{name}: {type(network).__name__} cannot read images of {size} ({one_line(error)})") from error


def _are_logits(network: nn.Module, output: Any, classes: int | None) -> bool:
    """Return whether a network's output for two images may be logits; in timm `num_classes` is 0 without classes."""
    is_row = isinstance(output, Tensor) and output.dim() == 2 and len(output) == 2
    return is_row and getattr(network, "num_classes", None) != 0 and output.shape[1] == (classes or output.shape[1])


def check_logits(network: nn.Module, name: str, logits: Any, classes: int | None, source: str) -> int:
    """Check that a network returned logits (2, classes) for two images.

    Args:
        network: the network.
        name: its role, for errors.
        logits: its output.
        classes: the expected number; any number if None.
        source: what states that number, for errors.

    Returns:
        The network's number of classes.

    Raises:
        UserError: the output is something else.
    """
    kind = type(network).__name__
    remedy = "; without classes, set soft_weight to 0 and match features" if name == "teacher" else ""
    if not isinstance(logits, Tensor):
        raise UserError(f"{name}: {kind} returns a {type(logits).__name__}, a tensor of logits expected{remedy}")
    if logits.dim() != 2 or len(logits) != 2:
        raise UserError(
            f"{name}: {kind} returns a tensor of shape {tuple(logits.shape)} for 2 images, 2 rows of logits expected"
            f"{remedy}"
        )
    if classes and logits.shape[1] != classes:
        named = "; name its classes: teacher_classes" if remedy and source == "data" else ""
        raise UserError(f"{name}: {kind} has {logits.shape[1]} classes, the {source} has {classes}{named}{remedy}")
    if name == "network" and getattr(network, "aux_logits", False):  # they are returned in training alone
        raise UserError(f"{name}: {kind} returns auxiliary outputs too, aux_logits: false expected")
    return logits.shape[1]


@torch.no_grad()
def warn_if_at_chance(logits_of: Callable[[Tensor], Tensor], name: str, trainer: Trainer) -> None:
    """Warn of a teacher whose accuracy on training images is no better than chance.

    Args:
        logits_of: normalised images (B, C, H, W) to the teacher's logits (B, classes).
        name: of the teacher's file, for the warning.
        trainer: has the data; data modules of other packages are not checked.
    """
    data = data_of(trainer)
    if not hasattr(data, "train_positions"):
        return
    labelled = data.train_positions[data.train_label != UNLABELLED]
    if not len(labelled):
        return
    some = labelled[:: max(1, len(labelled) // TEACHER_IMAGES)][:TEACHER_IMAGES]
    correct = 0
    with status("measuring the teacher's accuracy", trainer.is_global_zero):
        for index in some.to(trainer.strategy.root_device).split(data.eval_batch_size):
            batch = data.make_batch(index)
            correct += int((logits_of(batch.image).argmax(dim=-1) == batch.label).sum())
    accuracy, chance = correct / len(some), 1 / data.num_classes
    if accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / len(some)):
        rank_zero_warn(
            f"teacher_ckpt: {name} has an accuracy of {accuracy:.1%} on {len(some)} training images, chance is "
            f"{chance:.1%}; was it trained for these classes, in this order, and with this normalisation?"
        )


def check_checkpoint_data(trainer: Trainer, file: Any, description: Any) -> None:
    """Compare the data that a checkpoint's network was trained on with the data of this run.

    Args:
        trainer: of this run.
        file: the checkpoint, for the message.
        description: the checkpoint's description.

    Raises:
        UserError: the same classes in another order; or, in training, other data, which is a warning otherwise.
    """
    name, data = f"ckpt_path: {file}", data_of(trainer)
    try:
        order = compare_with_data(description, data, name)
    except UserError as error:
        if trainer.training:
            raise
        rank_zero_warn(f"{error}; its figures are of other data than it was trained for")
        return
    if order is not None:
        trained, ours = listed(description["class_names"]), listed(data.class_names)
        raise UserError(f"{name} was trained with the classes {trained}, in this order; the data has {ours}")


def check_finite(network: nn.Module, epoch: int, found: str = "") -> None:
    """Raise `DivergedError` if losses or weights are not finite.

    Args:
        network: is trained; its weights are checked.
        epoch: for the error.
        found: a mean that is not finite, and its batch, as of `RunningMeans`; empty if all are finite.
    """
    weight = next((name for name, value in network.named_parameters() if not value.isfinite().all()), "")
    if weight:
        found = f"{found}, as is {weight} since the step before," if found else f"{weight} is not finite at the end"
    if found:
        raise DivergedError(f"training: {found} of epoch {epoch}, {REMEDY}")


def check_finite_nll(nll: Tensor, epoch: int) -> None:
    """Raise `DivergedError` if the negative log-likelihood of a validation is not finite."""
    if not nll.isfinite():
        raise DivergedError(f"validation: nll is {nll.item()} in epoch {epoch}, {REMEDY}")


def warn_if_constant(predicted: int | None, trainer: Trainer, stage: str) -> None:
    """Warn of a network that predicts one class for every image.

    Args:
        predicted: that class; None if there are several.
        trainer: its data names the classes.
        stage: `validation` or `test`, for the warning.
    """
    if predicted is not None and not trainer.sanity_checking:
        names = getattr(data_of(trainer), "class_names", ())
        name = names[predicted] if predicted < len(names) else predicted
        rank_zero_warn(f"{stage}: {name} is predicted for every image: the network has learned nothing")


def explain_single_image(network: nn.Module, batch: Batch, error: ValueError) -> None:
    """Raise `UserError` if an error is that of batch norm on a training batch of one image."""
    if len(batch.label) == 1 and "Expected more than 1" in str(error):
        raise UserError(
            f"batch_size: 1 found, on which {type(network).__name__} cannot be trained ({one_line(error)}), at least 2 "
            "expected"
        ) from error
