"""Build a module's optimizer and its schedule."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.optim import Optimizer

from kd_lightning.errors import UserError
from kd_lightning.modules.fine_tuning import check_decay, scale_rates, scale_schedule


def build_optimizer(
    make: Callable[..., Optimizer],
    make_schedule: Callable[[Optimizer], Any] | None,
    parameters: Sequence[Any],
    trainer: Trainer | None,
) -> tuple[Optimizer, Any]:
    """Build an optimizer, fused if possible, and its schedule.

    Args:
        make: the class, or a function of the parameters.
        make_schedule: the schedule's class, or a function of the optimizer; None for a constant rate.
        parameters: to be trained, or the groups of `FineTuning`.
        trainer: of the run, if there is one.

    Returns:
        The optimizer, and its schedule or None.

    Raises:
        UserError: a fused optimizer is set where gradients are clipped under mixed precision.
    """
    # Lightning cannot clip gradients that a fused step unscales.
    is_clipped = trainer and trainer.gradient_clip_val and isinstance(trainer.precision_plugin, MixedPrecision)
    optimizer = make(parameters) if is_clipped else fused_if_possible(make, parameters)
    if trainer and is_clipped and getattr(optimizer, "_step_supports_amp_scaling", False):
        raise UserError(
            f"optimizer: fused: true found, false expected with gradient_clip_val under {trainer.precision}"
        )
    has_groups = isinstance(parameters[0], dict)
    if has_groups:
        check_decay(optimizer)
        scale_rates(optimizer)
    schedule = None if make_schedule is None else make_schedule(optimizer)
    if has_groups:
        scale_schedule(optimizer, schedule)
    return optimizer, schedule


def fused_if_possible(make: Callable[..., Optimizer], parameters: Iterable[Any]) -> Optimizer:
    """Build an optimizer; with `fused=True` if class and device support it and `fused` is not set."""
    parameters = list(parameters)
    if getattr(make, "keywords", {}).get("fused") is None:
        try:
            return make(parameters, fused=True)
        except (TypeError, RuntimeError):
            pass  # the optimizer, the device or an option does not support it
    return make(parameters)
