"""Leaving mixed precision for a while."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """A block in which nothing is cast; at no cost where nothing is cast anyway, as torch's own block has."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
