"""What tells a network's weights from other weights."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def weights_digest(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """A SHA-256 of the names, shapes and values of a network's parameters and buffers, on whatever device they are.

    The same training twice gives the same digest. Floating point values are compared as float32.
    """
    if isinstance(weights, nn.Module):
        # Not its state dict: of a sharded network that would gather the weights, for which all processes are needed.
        weights = {**dict(weights.named_parameters()), **dict(weights.named_buffers())}
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        values = tensor.detach()
        values = values.to_local() if hasattr(values, "to_local") else values  # of sharded weights, this process's own
        values = values.cpu()
        values = values.float() if values.is_floating_point() else values
        digest.update(f"{name} {tuple(values.shape)}\0".encode())
        digest.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
