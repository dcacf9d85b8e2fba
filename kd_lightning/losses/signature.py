"""Call a loss with what its signature asks for, and check what it returns."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from kd_lightning.errors import UserError

LossFunction = Callable[[Tensor, Tensor, float], Any]
"""A loss of logits or of layers' outputs; see `LossCall`. `Any`, as the CLI refuses functions without annotations for
any other type."""

BY_NAME = ("temperature", "label", "index", "student_logits", "teacher_logits")
"""What a loss may ask for by the names of its arguments, after the first two."""


class LossCall:
    """A loss, with the arguments that its signature asks for.

    The first two arguments are what is compared: logits (B, classes) of student and teacher, or what their layers give,
    each a tensor, or a list of tensors where several layers are named. Any further argument is given by its name:
    `temperature`, a float; `label`, int64 (B,); `index`, int64 (B,), the position in the whole training set;
    `student_logits` and `teacher_logits`, float32 (B, classes). A third argument of another name, in a loss on logits,
    is the temperature.

    Args:
        loss: a function, an `nn.Module`, or anything else that can be called.
        option: the option that names it, for errors.
        of_layers: whether it compares outputs of layers.

    Raises:
        UserError: it cannot be called so.
    """

    def __init__(self, loss: Any, option: str = "soft_loss", of_layers: bool = False) -> None:
        self.loss = loss
        self.option = option
        compared = "student's output, teacher's output" if of_layers else "student logits, teacher logits, temperature"
        self._expected = f"({compared}) to a scalar"
        if isinstance(loss, type) or not callable(loss):
            raise UserError(f"{option}: {loss!r} found, a function or a module expected: {self._expected}")
        self.name = loss_name(loss)
        self.by_name: tuple[str, ...] = ()
        self._takes_third = not of_layers
        try:
            signature = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
        except (TypeError, ValueError):  # some that are written in C do not say
            return
        given = loss.keywords if isinstance(loss, functools.partial) else {}
        further = [it for it in list(signature.parameters.values())[2:] if it.name not in given]
        self.by_name = tuple(it.name for it in further if it.name in BY_NAME and it.kind is not it.VAR_POSITIONAL)
        third = list(signature.parameters.values())[2:3]
        is_positional = bool(third) and third[0].kind in (third[0].POSITIONAL_ONLY, third[0].POSITIONAL_OR_KEYWORD)
        takes_any = any(it.kind is it.VAR_POSITIONAL for it in signature.parameters.values())
        self._takes_third &= takes_any or (is_positional and third[0].name not in BY_NAME)
        try:
            signature.bind(None, None, *self._third(1.0), **dict.fromkeys(self.by_name))
        except TypeError as error:
            raise UserError(
                f"{option}: {self.name} takes {signature}, {self._expected} expected, with {', '.join(BY_NAME[1:])} as "
                f"further arguments ({error})"
            ) from error

    def asks(self, name: str) -> bool:
        """Return whether the loss asks for one of `BY_NAME`."""
        return name in self.by_name

    def __call__(self, student: Any, teacher: Any, temperature: float, **values: Any) -> Tensor:
        """Compute the loss, a scalar.

        Args:
            student: logits (B, classes), or the outputs of layers.
            teacher: the same of the teacher.
            temperature: above 0.
            **values: `label`, `index`, `student_logits` and `teacher_logits`, of which the loss gets what it asks for.

        Raises:
            UserError: the loss returns something else.
        """
        values["temperature"] = temperature
        asked = {name: values[name] for name in self.by_name}
        value = self.loss(student, teacher, *self._third(temperature), **asked)
        if not isinstance(value, Tensor) or value.dim():
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"{self.option}: {self.name} gives {found}, {self._expected} expected, such as the batch's mean"
            )
        return value

    def _third(self, temperature: float) -> tuple[float, ...]:
        return (temperature,) if self._takes_third else ()


def loss_name(loss: Any) -> str:
    """Name a loss: a function by its own name, anything else by its class's."""
    return getattr(loss, "__name__", type(loss).__name__)
