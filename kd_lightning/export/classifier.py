"""A trained network with what stands around it."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from kd_lightning.checkpoints.description import Description
from kd_lightning.data.batches import normalise_and_resize, scale_and_shift
from kd_lightning.errors import UserError
from kd_lightning.teachers import uses_batch_statistics


class ImageClassifier(nn.Module):
    """uint8 images in, class probabilities out: normalisation, resizing, network and softmax in one module.

    It takes images (B, *stored_shape), as the data module stores them and `kd-lightning predict` decodes them, and
    does to them what the data module does on the way to the network.

    Args:
        network: normalised images (B, *image_shape) to logits (B, classes); a copy is put into float32 and evaluation
            mode.
        description: the images' shapes, mean and standard deviation.

    Raises:
        UserError: what the network says of an image depends on the images beside it.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, description: Description) -> None:
        super().__init__()
        if uses_batch_statistics(network):
            raise UserError(
                f"{type(network).__name__}: batch norm without running statistics found, with them expected: alone, an "
                "image would have no answer"
            )
        self.network = deepcopy(network).float()
        self.shape = description.image_shape
        scale, shift = scale_and_shift(torch.tensor(description.mean), torch.tensor(description.std))
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities float32 (B, classes) of images uint8 (B, C, H, W)."""
        shown = normalise_and_resize(image, self.scale, self.shift, self.shape)
        # A network that takes its maps apart by `view` minds the order in which resizing left them.
        return self.network(shown.contiguous()).float().softmax(dim=-1)
