"""What a network's inner layers give, by their names."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.errors import UserError


@contextmanager
def tapped(network: nn.Module, paths: Iterable[str], option: str) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of layers, by path, of the network's runs inside this context.

    Hooks and outputs last as long as the context: a network is copied, pickled, exported and saved without them,
    and no map is kept longer than its loss needs it. An output is a copy, so that an activation in place
    (`ReLU(inplace=True)`) behind the layer does not change it; to match what is behind the activation, name the
    activation. Of a layer that runs several times, it is the last output.

    Args:
        network: whose layers they are.
        paths: names as in `network.named_modules()`, such as `layer3.0.conv2`.
        option: what the user set them with, for errors.

    Raises:
        UserError: no layer has that name, or what a layer gives is no tensor.
    """
    outputs = _Outputs(option)
    layers = {path: _find(network, path, option) for path in paths}
    hooks = [layer.register_forward_hook(partial(outputs.keep, path)) for path, layer in layers.items()]
    try:
        yield outputs
    finally:
        outputs.clear()
        for hook in hooks:
            hook.remove()


class _Outputs(dict[str, Tensor]):
    """Outputs by path, with an answer for a path that has none."""

    def __init__(self, option: str) -> None:
        super().__init__()
        self.option = option

    def keep(self, path: str, layer: nn.Module, args: Any, output: Any) -> None:
        """Take up a layer's output; the hook."""
        if not isinstance(output, Tensor):
            raise UserError(
                f"{self.option} {path} gives a {type(output).__name__}, a layer that gives a tensor expected"
            )
        self[path] = output.clone(memory_format=torch.contiguous_format)  # a loss may take it apart by `view`

    def __missing__(self, path: str) -> Tensor:
        raise UserError(
            f"{self.option} {path} gives nothing when the network runs: a layer that runs with it, in a network that "
            "is not compiled, expected"
        )


def _find(network: nn.Module, path: str, option: str) -> nn.Module:
    try:
        return network.get_submodule(path)
    except AttributeError as error:
        close = get_close_matches(path, [name for name, _ in network.named_modules() if name])
        known = ", ".join(close or [name for name, _ in network.named_children()])
        raise UserError(
            f"{option} {path} found, a layer of {type(network).__name__} expected, such as {known}"
        ) from error
