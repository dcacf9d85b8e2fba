"""Write Lightning's checkpoints atomically and verify their checksums."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from kd_lightning.checkpoints.file import add_checksum, verify_checksum
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.atomic_write import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, which replace the old one in one step and carry a checksum.

    Lightning's own writing leaves an empty file if the process is killed, and a truncated one on a full disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; raise `UserError` if it cannot be written."""
        if storage_options is not None or "://" in str(path):  # not on a disk
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with atomic_write(Path(path)) as temporary:
            try:
                with temporary.open("wb") as file:  # given a path, torch stores the file's name in it
                    torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's error for a failed write
                raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
            add_checksum(temporary)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint; raise `UserError` if it is damaged."""
        if Path(path).is_file():
            verify_checksum(Path(path), "ckpt_path")
        return super().load_checkpoint(path, *args, **kwargs)
