"""A trained network with preprocessing and softmax in one module."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from kd_lightning.checkpoints.description import Description
from kd_lightning.data.batches import normalise_and_resize, scale_and_shift
from kd_lightning.errors import UserError
from kd_lightning.teachers import uses_batch_statistics
from kd_lightning.utils.network_output import logits_of


class ImageClassifier(nn.Module):
    """Normalisation, resizing, network and softmax: uint8 images to class probabilities.

    Images are (B, *stored_shape), as data modules store them and `kd-lightning predict` decodes them; preprocessing is
    that of the data module.

    Args:
        network: normalised images (B, *image_shape) to logits (B, classes); a copy is put into float32 and evaluation
            mode.
        description: the images' shapes, mean and standard deviation.

    Raises:
        UserError: the network's batch norm depends on the other images of a batch.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, description: Description) -> None:
        super().__init__()
        if uses_batch_statistics(network):
            raise UserError(
                f"{type(network).__name__}: batch norm without running statistics found, with them expected: a "
                "single image has no batch statistics"
            )
        self.network = deepcopy(network).float()
        self.shape = description.image_shape
        scale, shift = scale_and_shift(torch.tensor(description.mean), torch.tensor(description.std))
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Return probabilities, float32 (B, classes), of images uint8 (B, C, H, W)."""
        normalised = normalise_and_resize(image, self.scale, self.shift, self.shape)
        # Networks that reshape feature maps by `view` need contiguous memory, which resizing does not keep.
        probabilities: Tensor = logits_of(self.network(normalised.contiguous())).float().softmax(dim=-1)
        return probabilities
