"""Check the arguments and the result of a custom soft loss."""

import inspect
from typing import Any

from torch import Tensor, nn

from kd_lightning.errors import UserError

EXPECTED = "(student logits, teacher logits, temperature) to a scalar"


def check_arguments(loss: Any) -> None:
    """Raise `UserError` unless a soft loss can be called with three arguments by position.

    Args:
        loss: a function, an `nn.Module`, or anything else that can be called.
    """
    if isinstance(loss, type) or not callable(loss):
        raise UserError(f"soft_loss: {loss!r} found, a function or a module expected: {EXPECTED}")
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
    except (TypeError, ValueError):  # some that are written in C do not say
        return
    try:
        signature.bind(None, None, 1.0)
    except TypeError as error:
        raise UserError(f"soft_loss: {loss_name(loss)} takes {signature}, {EXPECTED} expected ({error})") from error


def check_scalar(loss: Any, value: Any) -> None:
    """Raise `UserError` unless the result of a soft loss is a scalar tensor."""
    if not isinstance(value, Tensor) or value.dim():
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"soft_loss: {loss_name(loss)} gives {found}, {EXPECTED} expected, such as the batch's mean")


def loss_name(loss: Any) -> str:
    """Name a loss: a function by its own name, anything else by its class's."""
    return getattr(loss, "__name__", type(loss).__name__)
