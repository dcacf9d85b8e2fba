"""Schedules of the learning rate that torch lacks, and schedules of temperatures and of losses' weights."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kd_lightning.errors import UserError

__all__ = ["CosineDecay", "CosineSchedule", "LinearSchedule", "RunSchedule", "StepDecay", "ValueSchedule", "WarmUp"]


class RunSchedule(LRScheduler):
    """Learning rates that depend on the fraction of the run that is done.

    It is stepped once per training step, and takes the length of the run from the trainer; torch's schedules need it as
    an option, which `--trainer.max_epochs` would not change.

    Args:
        optimizer: its learning rates are the peak.
        total_steps: length of the run; set by the module by default.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int | None = None) -> None:
        self.total_steps = total_steps
        super().__init__(optimizer)

    def run_for(self, total_steps: int) -> None:
        """Set the length of the run and the rate of the first step."""
        self.total_steps = total_steps
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate

    @abstractmethod
    def factor(self, step: int) -> float:
        """Return the fraction of the peak rate at a step, in [0, 1]."""

    def get_lr(self) -> list[Any]:
        """Return the rate of each parameter group at the current step."""
        return [peak * self.factor(self.last_epoch) for peak in self.base_lrs]


class CosineDecay(RunSchedule):
    """Linear warm-up, then half a cosine to zero at the last step of the run.

    Args:
        optimizer: its learning rates are the peak.
        warmup: fraction of the run, in [0, 1), in which the rate rises from near zero to the peak.
        total_steps: length of the run; set by the module by default.

    Raises:
        ValueError: `warmup` is outside [0, 1).

    Source: Loshchilov and Hutter 2017, SGDR, section 3 (arXiv 1608.03983), without restarts.
    """

    def __init__(self, optimizer: Optimizer, warmup: float = 0.0, total_steps: int | None = None) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must be in [0, 1), not {warmup}")
        self.warmup = warmup
        super().__init__(optimizer, total_steps)

    def factor(self, step: int) -> float:
        """Return the fraction of the peak rate at a step, in [0, 1]."""
        if self.total_steps is None:
            return 1.0
        warmup_steps = self.warmup * self.total_steps
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1.0, self.total_steps - warmup_steps))
        return (1 + math.cos(math.pi * progress)) / 2


class StepDecay(RunSchedule):
    """A rate that falls at fractions of the run, such as tenfold at 150, 180 and 210 of 240 epochs.

    Args:
        optimizer: its learning rates are the peak.
        at: fractions of the run, in (0, 1), at which the rate falls.
        decay: what the rate is multiplied with each time, in (0, 1].
        total_steps: length of the run; set by the module by default.

    Raises:
        ValueError: a fraction or the decay is out of range.

    Source: the defaults are those of Tian et al. 2020, section 4.1 (arXiv 1910.10699).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        at: Sequence[float] = (0.625, 0.75, 0.875),
        decay: float = 0.1,
        total_steps: int | None = None,
    ) -> None:
        if not all(0 < fraction < 1 for fraction in at):
            raise ValueError(f"at must be fractions of the run in (0, 1), not {list(at)}")
        if not 0 < decay <= 1:
            raise ValueError(f"decay must be in (0, 1], not {decay}")
        self.at, self.decay = tuple(at), decay
        super().__init__(optimizer, total_steps)

    def factor(self, step: int) -> float:
        """Return the fraction of the peak rate at a step, in (0, 1]."""
        if self.total_steps is None:
            return 1.0
        return float(self.decay ** sum(step >= fraction * self.total_steps for fraction in self.at))


class ValueSchedule(ABC):
    """A temperature or a loss's weight that changes from epoch to epoch; subclasses define `at`."""

    @abstractmethod
    def at(self, epoch: int, epochs: int | None) -> float:
        """Return the value in an epoch.

        Args:
            epoch: from 0.
            epochs: of the run; None if it has no such length.

        Raises:
            UserError: the schedule depends on the length of a run that has none, or its own is below 1 epoch.
        """


class LinearSchedule(ValueSchedule):
    """Change linearly from `start` in the first epoch to `end` in the last.

    Args:
        start: value in epoch 0.
        end: value in the last epoch.
        epochs: number of epochs until `end`, at least 1; it holds from then on. By default those of the run.
    """

    def __init__(self, start: float, end: float, epochs: int | None = None) -> None:
        self.start, self.end, self.epochs = start, end, epochs

    def at(self, epoch: int, epochs: int | None) -> float:
        """Return the value in an epoch; see `ValueSchedule.at`."""
        return self.start + (self.end - self.start) * self.progress(epoch, epochs)

    def progress(self, epoch: int, epochs: int | None) -> float:
        """Return how much of the change has been made, in [0, 1]."""
        length = epochs if self.epochs is None else _checked(self.epochs)
        if length is None:
            raise UserError(f"{type(self).__name__}: epochs expected, or trainer.max_epochs, the length of the run")
        return min(1.0, epoch / (length - 1)) if length > 1 else 1.0


class CosineSchedule(LinearSchedule):
    """Change from `start` to `end` by half a cosine, slowly at both ends; see `LinearSchedule` for the options."""

    def progress(self, epoch: int, epochs: int | None) -> float:
        """Return how much of the change has been made, in [0, 1]."""
        return (1 - math.cos(math.pi * super().progress(epoch, epochs))) / 2


class WarmUp(ValueSchedule):
    """Rise linearly over the first epochs, to `value`: (epoch + 1) / epochs of it, counted from 0.

    Args:
        epochs: number of the epoch, counted from 1, in which `value` is reached.
        value: from then on.
        of: length of the run that `epochs` are meant for, in epochs; they shrink or grow with the run's own. By default
            they stay as they are.

    Source: the weight of decoupled knowledge distillation, Zhao et al. 2022, appendix A.1 (arXiv 2203.08679).
    """

    def __init__(self, epochs: int, value: float = 1.0, of: int | None = None) -> None:
        self.epochs, self.value, self.of = epochs, value, of

    def at(self, epoch: int, epochs: int | None) -> float:
        """Return the value in an epoch; see `ValueSchedule.at`."""
        if self.of is not None and self.of < self.epochs:
            raise UserError(f"of: {self.of} found, at least the {self.epochs} epochs of warm-up expected")
        scale = epochs / self.of if epochs and self.of else 1.0
        return self.value * min(1.0, (epoch + 1) / (_checked(self.epochs) * scale))


Value = float | ValueSchedule
"""A number, or a schedule of it over epochs."""


def epochs_of(trainer: Trainer | None) -> int | None:
    """Return the length of a run in epochs; None if it has no such length."""
    return trainer.max_epochs if trainer is not None and trainer.max_epochs not in (None, -1) else None


def value_in_epoch(value: Value, trainer: Trainer | None) -> float:
    """Return a number, or the value of a schedule: in a training in its epoch, else in the last one."""
    if not isinstance(value, ValueSchedule):
        return value
    epochs = epochs_of(trainer)
    is_training = trainer is not None and trainer.state.fn == "fit"
    return value.at(trainer.current_epoch if trainer is not None and is_training else (epochs or 1) - 1, epochs)


def _checked(epochs: int) -> int:
    if epochs < 1:
        raise UserError(f"epochs: {epochs} found, at least 1 expected")
    return epochs
