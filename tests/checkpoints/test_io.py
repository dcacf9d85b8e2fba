from pathlib import Path

import pytest
import torch

from kd_lightning.checkpoints.io import AtomicCheckpointIO
from kd_lightning.errors import UserError

CONTENT = {"state_dict": {"weight": torch.arange(6.0)}}


def test_a_checkpoint_is_torch_s_own_and_sealed(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, file)
    for found in (AtomicCheckpointIO().load_checkpoint(file), torch.load(file, weights_only=True)):
        assert torch.equal(found["state_dict"]["weight"], CONTENT["state_dict"]["weight"])
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"ckpt_path: .*last\.ckpt is damaged"):
        AtomicCheckpointIO().load_checkpoint(file)


def test_elsewhere_than_on_a_disk_lightning_writes_it() -> None:
    checkpoints = AtomicCheckpointIO()
    checkpoints.save_checkpoint(CONTENT, "memory://runs/last.ckpt")
    found = checkpoints.load_checkpoint("memory://runs/last.ckpt")
    assert torch.equal(found["state_dict"]["weight"], CONTENT["state_dict"]["weight"])
    with pytest.raises(TypeError, match="storage_options"):  # as Lightning's own does
        checkpoints.save_checkpoint(CONTENT, "last.ckpt", storage_options={})
