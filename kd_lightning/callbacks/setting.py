"""The setting of a run's figures: network, versions, machine, device, and the network's latency on it."""

from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from kd_lightning.batch import data_of
from kd_lightning.reports.results import machine, versions
from kd_lightning.utils.latency import BATCH_SIZES, measure_latency

MEBIBYTE = 2**20


def size_in_bytes(network: nn.Module) -> int:
    """Return the bytes of a network's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


def setting(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return the parts of `results.json` on network, versions, machine and device."""
    network = module.net
    assert isinstance(network, nn.Module)
    on_gpu = module.device.type == "cuda"
    return {
        "network": {
            "name": type(network).__name__,
            "parameters": sum(p.numel() for p in network.parameters()),
            "mebibytes": size_in_bytes(network) / MEBIBYTE,
        },
        "versions": versions(),
        "machine": machine(),
        "device": torch.cuda.get_device_name(module.device) if on_gpu else module.device.type,
        "devices": trainer.world_size,
        "threads": torch.get_num_threads(),
    }


def latency(trainer: Trainer, module: LightningModule) -> dict[str, float]:
    """Return milliseconds by batch size, in the run's precision on its device, for sizes that can be measured."""
    data = data_of(trainer)
    # Several processes share a machine, and shards of a network wait for each other.
    if not hasattr(data, "image_shape") or trainer.world_size > 1:
        return {}
    figures: dict[str, float] = {}
    with trainer.precision_plugin.forward_context():
        for size in BATCH_SIZES:
            # Batch norm without running statistics cannot read one image; many may not fit on the device.
            with suppress(ValueError, RuntimeError):
                net: Any = module.net
                memory_format: Any = module.memory_format
                milliseconds = measure_latency(net, data.image_shape, size, module.device, memory_format)
                figures[f"batch_{size}"] = round(milliseconds, 4)
    return figures
