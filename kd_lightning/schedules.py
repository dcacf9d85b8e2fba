"""Learning-rate schedules that torch lacks."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class CosineDecay(LRScheduler):
    """Linear warm-up, then half a cosine to zero at the last step of the run.

    It is stepped once per training step, and takes the length of the run from the trainer; torch's `CosineAnnealingLR`
    needs it as an option, which `--trainer.max_epochs` would not change.

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
        self.total_steps = total_steps
        super().__init__(optimizer)

    def run_for(self, total_steps: int) -> None:
        """Set the length of the run and the rate of the first step."""
        self.total_steps = total_steps
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate

    def factor(self, step: int) -> float:
        """Return the fraction of the peak rate at a step, in [0, 1]."""
        if self.total_steps is None:
            return 1.0
        warmup_steps = self.warmup * self.total_steps
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1.0, self.total_steps - warmup_steps))
        return (1 + math.cos(math.pi * progress)) / 2

    def get_lr(self) -> list[Any]:
        """Return the rate of each parameter group at the current step."""
        return [peak * self.factor(self.last_epoch) for peak in self.base_lrs]
