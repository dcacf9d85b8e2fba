"""Stack networks of one architecture into one network."""

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
    """Run M networks that differ in their weights alone: images (B, C, H, W) to logits (M, B, classes).

    Each weight is one tensor with the networks along its first axis, so that a matrix product of one network is one
    batched product of all.

    Args:
        networks: at least one, all of one architecture; see `why_not_stacked`.
    """

    template: nn.Module
    """The architecture, without weights."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        weights, _ = stack_module_state(list(networks))
        self.names = list(weights)
        self.weights = nn.ParameterList(nn.Parameter(weight.detach().clone()) for weight in weights.values())
        # Not registered as a submodule, as its weights on the meta device are never used.
        object.__setattr__(self, "template", deepcopy(networks[0]).to("meta"))

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits of every network: (M, B, classes)."""
        return vmap(self._logits, in_dims=(0, None))(dict(zip(self.names, self.weights, strict=True)), image)

    def _logits(self, weights: dict[str, Tensor], image: Tensor) -> Tensor:
        with _StackedLinearMode():
            return functional_call(self.template, weights, (image,))

    def member(self, number: int) -> dict[str, Tensor]:
        """Return the state dict of one network."""
        return {name: weight[number].detach() for name, weight in zip(self.names, self.weights, strict=True)}


class _StackedLinearMode(TorchFunctionMode):
    """Replace `F.linear` by `_StackedLinear`, in whatever module it is called."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_linear if func is F.linear else func)(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if bias is None or input.dim() != 2:
        return F.linear(input, weight, bias)
    return _StackedLinear.apply(input, weight, bias)


class _StackedLinear(torch.autograd.Function):
    """A linear layer of images (B, in), for which `vmap` multiplies weights by images.

    torch's own rule multiplies images by weights: it copies the weights' gradients into their memory order, and
    multiplies images that the networks share by each network's weights separately. A step of 32 students
    784-200-200-10 takes 0.75 of that rule's time (batch of 32, one CPU thread or two).
    """

    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(input, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save nothing: autograd differentiates the operations of the `vmap` rule."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, input: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, int]:
        weight, bias = weight.movedim(in_dims[1], 0), bias.movedim(in_dims[2], 0)
        if in_dims[0] is None:
            output = torch.addmm(bias.flatten()[:, None], weight.flatten(0, 1), input.mT).unflatten(0, bias.shape)
        else:
            output = torch.baddbmm(bias[:, :, None], weight, input.movedim(in_dims[0], 0).mT)
        return output.mT, 0


def why_not_stacked(network: nn.Module, image: Tensor) -> str:
    """Return why a network cannot be trained in a stack as it is trained alone; empty if it can.

    Args:
        network: in training mode.
        image: float (B, C, H, W), to try it with.
    """
    name = type(network).__name__
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p:
            return f"{name} drops units at random ({type(module).__name__})"
    for buffer, _ in network.named_buffers():
        return f"{name} has buffers ({buffer})"
    try:
        with torch.no_grad():
            stacked, alone = Stack([network, network])(image), network(image)
    except Exception as error:  # any network may be given
        return f"{name} cannot be stacked ({one_line(error)})"
    return "" if torch.allclose(stacked[1], alone, rtol=1e-3, atol=1e-4) else f"{name} has other outputs in a stack"
