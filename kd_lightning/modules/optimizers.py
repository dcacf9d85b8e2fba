"""Build a module's optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.optim import Optimizer

from kd_lightning.errors import UserError


def build_optimizer(make: Callable[..., Optimizer], parameters: Iterable[Any], trainer: Trainer | None) -> Optimizer:
    """Build an optimizer, fused if possible.

    Args:
        make: the class, or a function of the parameters.
        parameters: to be trained, or groups of them.
        trainer: of the run, if there is one.

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
    return optimizer


def fused_if_possible(make: Callable[..., Optimizer], parameters: Iterable[Any]) -> Optimizer:
    """Build an optimizer; with `fused=True` if class and device support it and `fused` is not set."""
    parameters = list(parameters)
    if getattr(make, "keywords", {}).get("fused") is None:
        try:
            return make(parameters, fused=True)
        except (TypeError, RuntimeError):
            pass  # the optimizer, the device or an option does not support it
    return make(parameters)
