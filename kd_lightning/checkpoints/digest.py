"""Identify a network's weights by a digest."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def weights_digest(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """Return a SHA-256 of the names, shapes and values of a network's parameters and buffers, on any device.

    The same training twice gives the same digest. Floating-point values are converted to float32.
    """
    if isinstance(weights, nn.Module):
        # The state dict of a sharded network would gather the weights, which takes all processes.
        weights = {**dict(weights.named_parameters()), **dict(weights.named_buffers())}
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        values = tensor.detach()
        values = values.to_local() if hasattr(values, "to_local") else values  # the shard of this process
        values = values.cpu()
        values = values.float() if values.is_floating_point() else values
        digest.update(f"{name} {tuple(values.shape)}\0".encode())
        digest.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
