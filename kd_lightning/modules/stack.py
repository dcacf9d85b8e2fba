"""Networks of one architecture as one network."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.overrides import TorchFunctionMode

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
        with _WithStackedLinear():
            return functional_call(self.form, weights, (image,))

    def member(self, number: int) -> dict[str, Tensor]:
        """The state dict of one of the networks."""
        return {name: weight[number].detach() for name, weight in zip(self.names, self.weights, strict=True)}


class _WithStackedLinear(TorchFunctionMode):
    """Where linear layers, by whatever module, are `_StackedLinear`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_linear if func is F.linear else func)(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if bias is None or input.dim() != 2:
        return F.linear(input, weight, bias)
    return _StackedLinear.apply(input, weight, bias)


class _StackedLinear(torch.autograd.Function):
    """A linear layer of images (B, in), for which `vmap` takes the weights times the images.

    By its own rule it takes the images times the weights: then it copies the weights' gradients into their order
    in memory, and multiplies images that the networks share by each network's weights apart. A step of 32 students
    784-200-200-10 takes 0.75 of that rule's time (batch of 32, one CPU thread or two).
    """

    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(input, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing: what the rule below does has gradients of its own."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, input: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, int]:
        weight, bias = weight.movedim(in_dims[1], 0), bias.movedim(in_dims[2], 0)
        if in_dims[0] is None:
            output = torch.addmm(bias.flatten()[:, None], weight.flatten(0, 1), input.mT).unflatten(0, bias.shape)
        else:
            output = torch.baddbmm(bias[:, :, None], weight, input.movedim(in_dims[0], 0).mT)
        return output.mT, 0


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
