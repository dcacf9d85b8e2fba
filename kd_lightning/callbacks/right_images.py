"""Collect which test images are classified correctly."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from kd_lightning.batch import UNKNOWN_INDEX, as_batch
from kd_lightning.reports.right_images import pack


class RightImages:
    """Position and correctness of each image of a test, over all processes."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._is_known = True

    def update(self, outputs: Any, batch: Any) -> None:
        """Add a batch with its logits (B, classes)."""
        if not isinstance(outputs, Tensor) or outputs.dim() != 2:  # of a module with a `test_step` of its own
            self._is_known = False
            return
        batch = as_batch(batch)
        if len(outputs) != len(batch.label):
            self._is_known = False
            return
        self._parts.append(torch.stack([batch.index, (outputs.argmax(dim=-1) == batch.label).long()]))

    def gather(self, trainer: Trainer, module: LightningModule) -> None:
        """Gather the images of all processes, each of which has to call this."""
        if trainer.world_size > 1:
            own = torch.cat(self._parts, dim=1) if self._parts else torch.zeros(2, 0, dtype=torch.long)
            self._parts = gather_all_tensors(own.to(module.device).contiguous())

    def packed(self, count: int | None) -> str | None:
        """Return the bits of the whole test set, see `pack`; None if positions are unknown or not all were tested.

        Args:
            count: size of the test set, if known.
        """
        if not self._is_known or not self._parts:
            return None
        index, right = torch.cat(self._parts, dim=1).cpu()
        is_whole = len(index) == count and torch.equal(index.sort().values, torch.arange(len(index)))
        if UNKNOWN_INDEX in index or not is_whole:
            return None
        return pack(right[index.argsort()].bool().numpy())
