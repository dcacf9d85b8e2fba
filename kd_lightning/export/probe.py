"""What every form of a network is: a function of images."""

from collections.abc import Callable

import torch
from torch import Tensor

from kd_lightning.checkpoints.description import Description
from kd_lightning.errors import UserError, one_line

Answer = Callable[[Tensor], Tensor]
"""Images, uint8 (B, C, H, W), to probabilities, float32 (B, classes)."""

LONGEST = 200
"""Characters of what a library says that an error shows: some say pages."""


def short(error: Exception) -> str:
    """What an error says, in one line that can be read."""
    said = one_line(error)
    return said if len(said) <= LONGEST else f"{said[:LONGEST]} …"


@torch.no_grad()
def check_answer(answer: Answer, description: Description, name: str) -> None:
    """Show two blank images to what a file holds; raise `UserError` unless it answers as the file says.

    Args:
        answer: what is in the file.
        description: what the file says of it.
        name: of the option and the file, for errors.
    """
    shape = "x".join(map(str, description.stored_shape))
    try:
        said = answer(torch.zeros(2, *description.stored_shape, dtype=torch.uint8))
    except Exception as error:  # what is in the file may be anybody's
        raise UserError(f"{name} cannot read images of {shape}, which it is described to ({short(error)})") from error
    found = tuple(said.shape) if isinstance(said, Tensor) else type(said).__name__
    if found != (2, len(description.class_names)):
        raise UserError(
            f"{name} gives {found} for 2 images, one number for each of {len(description.class_names)} "
            "classes expected, which it is described to have"
        )
