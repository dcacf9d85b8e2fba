"""Check that a loaded network fits its description, with two blank images."""

from collections.abc import Callable

import torch
from torch import Tensor

from kd_lightning.checkpoints.description import Description
from kd_lightning.errors import UserError, one_line

Predictor = Callable[[Tensor], Tensor]
"""Function from images, uint8 (B, C, H, W), to probabilities, float32 (B, classes)."""

MAX_LENGTH = 200
"""Characters of a library's message in an error."""


def short(error: Exception) -> str:
    """Return an error's message as one line of limited length."""
    message = one_line(error)
    return message if len(message) <= MAX_LENGTH else f"{message[:MAX_LENGTH]} …"


@torch.no_grad()
def check_predictor(predictor: Predictor, description: Description, name: str) -> None:
    """Run two blank images; raise `UserError` unless the output has the described shape.

    Args:
        predictor: the loaded network.
        description: of the file.
        name: option and file, for errors.
    """
    shape = "x".join(map(str, description.stored_shape))
    try:
        output = predictor(torch.zeros(2, *description.stored_shape, dtype=torch.uint8))
    except Exception as error:  # the file may be from anyone
        raise UserError(f"{name} cannot read images of {shape}, which it is described to ({short(error)})") from error
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != (2, len(description.class_names)):
        raise UserError(
            f"{name} gives {found} for 2 images, one number for each of {len(description.class_names)} "
            "classes expected, which it is described to have"
        )
