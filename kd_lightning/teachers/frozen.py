"""A teacher whose weights do not change."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from kd_lightning.errors import UserError
from kd_lightning.teachers.classes import ClassOrder, as_index, in_class_order
from kd_lightning.teachers.ensemble import EnsembleTeacher
from kd_lightning.teachers.own_input import without_own_input
from kd_lightning.utils.network_output import logits_of


class FrozenTeacher(nn.Module):
    """Hold a trained network that moves with its owner and is neither trained nor saved with it.

    The network stays outside the module registry: its weights are in no optimizer, no checkpoint of the owner and
    no gradient reduction between devices. It follows the owner to a device or precision, is always in eval mode
    and never builds a graph.

    `no_grad`, not `inference_mode`: losses on the teacher's outputs save them for the student's backward pass.

    Args:
        network: the trained network.
    """

    network: nn.Module
    class_order: Tensor | None
    """int64 (classes,): the network's output for each class of the student; None where they are the same."""
    sharded = False
    """Whether the weights are divided among the processes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):  # a function may return anything
            raise UserError(f"teacher: {type(network).__name__} found, a network (nn.Module) expected")
        object.__setattr__(self, "network", network.eval().requires_grad_(False))
        self.register_buffer("class_order", None, persistent=False)
        self._order: ClassOrder | None = None

    @property
    def trained_network(self) -> nn.Module:
        """The network that a file's weights belong to: `network`, or what is inside its `OwnInput`."""
        return without_own_input(self.network)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, also when the owner is trained."""
        self.network.eval()
        return super().train(False)

    def shard(self, device: torch.device) -> None:
        """Divide the weights of each block among the processes; a block is assembled when it is called.

        A block is what a `Sequential` or a `ModuleList` is made of. All processes of the run are to call this, and the
        teacher from then on, equally often.

        Args:
            device: of this process's share.

        Source: Zhao et al. 2023, section 3 (FSDP, arXiv 2304.11277).
        """
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        self.sharded = True
        self.network.to(memory_format=torch.contiguous_format)  # torch does not divide any other
        lists = [module for module in self.network.modules() if isinstance(module, (nn.Sequential, nn.ModuleList))]
        blocks = [block for module in reversed(lists) for block in module if _has_weights_and_is_called(block)]
        for block in dict.fromkeys([*blocks, self.network]):  # the inner ones first
            fully_shard(block, mesh=mesh)

    def set_class_orders(self, orders: Sequence[ClassOrder | None]) -> None:
        """Select the logits from now on, so that class c of the student is output `places[c]` of the network.

        Args:
            orders: one for each member of an ensemble, else one; None where the classes are the same.
        """
        if isinstance(self.network, EnsembleTeacher):
            self.network.set_class_orders(orders)
        else:
            (self._order,) = orders
            self.class_order = as_index(self._order)

    def in_class_order(self, logits: Any) -> Any:
        """Return the network's logits (B, outputs) of the student's classes, in their order: (B, classes)."""
        return in_class_order(logits, self.class_order, self._order)

    @torch.no_grad()
    def forward(self, *args: Any) -> Any:
        """Compute the network's logits (B, classes) in the student's order of the classes."""
        return self.in_class_order(logits_of(self.network(*args)))


def _has_weights_and_is_called(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) and not isinstance(module, (nn.ModuleList, nn.ModuleDict))
