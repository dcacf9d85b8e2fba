"""Record the outputs of named inner layers with forward hooks."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.errors import UserError


@contextmanager
def record_outputs(network: nn.Module, layers: Iterable[str], option: str) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of layers, by name, whenever the network runs inside this context.

    Hooks and outputs are removed at the end of the context, so that a network is copied, pickled, exported and saved
    without them, and no feature map outlives its loss. Outputs are copies: an activation in place that follows the
    layer (`ReLU(inplace=True)`) does not change them. To record activated features, name the activation. A layer that
    runs several times leaves its last output.

    Args:
        network: contains the layers.
        layers: names as in `network.named_modules()`, such as `layer3.0.conv2`.
        option: the option that names the layers, for errors.

    Raises:
        UserError: there is no layer of that name, or its output is not a tensor.
    """
    outputs = _Outputs(option)
    found = {name: _find_layer(network, name, option) for name in layers}
    hooks = [layer.register_forward_hook(partial(outputs.record, name)) for name, layer in found.items()]
    try:
        yield outputs
    finally:
        outputs.clear()
        for hook in hooks:
            hook.remove()


class _Outputs(dict[str, Tensor]):
    """Outputs by layer; a layer without one raises `UserError`."""

    def __init__(self, option: str) -> None:
        super().__init__()
        self.option = option

    def record(self, name: str, layer: nn.Module, args: Any, output: Any) -> None:
        """Record a layer's output; this is the forward hook."""
        if not isinstance(output, Tensor):
            raise UserError(
                f"{self.option} {name} returns a {type(output).__name__}, a layer that returns a tensor expected"
            )
        self[name] = output.clone(memory_format=torch.contiguous_format)  # a loss may use `view`

    def __missing__(self, name: str) -> Tensor:
        raise UserError(
            f"{self.option} {name} has no output when the network runs, a layer that runs in every forward pass of a "
            "network that is not compiled expected"
        )


def _find_layer(network: nn.Module, name: str, option: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        close = get_close_matches(name, [known for known, _ in network.named_modules() if known])
        known = ", ".join(close or [child for child, _ in network.named_children()])
        raise UserError(
            f"{option} {name} found, a layer of {type(network).__name__} expected, such as {known}"
        ) from error
