"""Checkpoints that are whole, or not there."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from kd_lightning.checkpoints.file import check_whole, seal
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.atomic_write import whole_file


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written beside the old one and renamed, and compared with their seal.

    Lightning's own writing leaves an empty file where a process is killed, or a part of one on a full disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; raise `UserError` where it cannot be written."""
        if storage_options is not None or "://" in str(path):  # elsewhere than on a disk
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with whole_file(Path(path)) as draft:
            try:
                with draft.open("wb") as file:  # named in it otherwise
                    torch.save(checkpoint, file)
            except RuntimeError as error:  # what torch makes of a write that failed
                raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
            seal(draft)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint; raise `UserError` where it is not as it was written."""
        if Path(path).is_file():
            check_whole(Path(path), "ckpt_path")
        return super().load_checkpoint(path, *args, **kwargs)
