"""Networks of one architecture as one network."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from kd_lightning.errors import one_line


class Stack(nn.Module):
    """M networks that differ in their weights alone, as one: images (B, C, H, W) to logits (M, B, classes).

    Each weight is one tensor with the networks along its first axis, so that what takes a network one matrix product
    takes all of them one batched product.

    Args:
        networks: at least one, of one architecture; see `why_not_stacked`.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        weights, _ = stack_module_state(list(networks))
        self.names = list(weights)
        self.weights = nn.ParameterList(nn.Parameter(weight.detach().clone()) for weight in weights.values())
        # Outside the registry: it says what is done with weights, and has none of its own.
        object.__setattr__(self, "form", deepcopy(networks[0]).to("meta"))

    form: nn.Module

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every network: (M, B, classes)."""
        return vmap(self._logits, in_dims=(0, None))(dict(zip(self.names, self.weights, strict=True)), image)

    def _logits(self, weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(self.form, weights, (image,))

    def member(self, number: int) -> dict[str, Tensor]:
        """The state dict of one of the networks."""
        return {name: weight[number].detach() for name, weight in zip(self.names, self.weights, strict=True)}


def why_not_stacked(network: nn.Module, image: Tensor) -> str:
    """What keeps a network from being trained in a stack as it is trained alone; empty if nothing does.

    Args:
        network: in training mode.
        image: float (B, C, H, W), to try it with.
    """
    name = type(network).__name__
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p:
            return f"{name} drops units at random ({type(module).__name__})"
    for buffer, _ in network.named_buffers():
        return f"{name} keeps more than weights ({buffer})"
    try:
        with torch.no_grad():
            stacked, alone = Stack([network, network])(image), network(image)
    except Exception as error:  # the network may be anybody's
        return f"{name} cannot be stacked ({one_line(error)})"
    return "" if torch.allclose(stacked[1], alone, rtol=1e-3, atol=1e-4) else f"{name} answers otherwise in a stack"
