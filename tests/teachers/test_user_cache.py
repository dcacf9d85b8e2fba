"""Cached logits of networks as they were built, in the user's cache folder."""

import os

import pytest
from torch import nn

from kd_lightning.teachers import cache_file


def test_logits_of_networks_as_built_stay_within_a_bound(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_LIGHTNING_CACHE", str(tmp_path))
    monkeypatch.setattr(cache_file, "MAX_USER_BYTES", 25)
    files = [cache_file.user_cache_file(nn.Linear(2, size), "key") for size in (1, 2, 3)]
    assert len({*files}) == 3
    for age, file in enumerate(files):
        file.write_bytes(b"0123456789")
        os.utime(file, (age, age))
    cache_file.mark_used(files[0])
    cache_file.remove_outdated(files[0])
    assert [file.exists() for file in files] == [True, False, True]
    monkeypatch.setenv("KD_LIGHTNING_CACHE", "/dev/null")
    with pytest.warns(match="cache_teacher: logits are not kept for later runs"):
        assert cache_file.user_cache_file(nn.Linear(2, 1), "key") is None
