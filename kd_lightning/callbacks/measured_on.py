"""What a test measured: images, weights, precision and code, by digests."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from kd_lightning.batch import data_of
from kd_lightning.checkpoints.digest import weights_digest
from kd_lightning.reports.results import code_version, read_results


def weights_of(module: LightningModule) -> dict[str, str]:
    """Return digests of the weights of a module's network and of its teacher, if any."""
    teacher: Any = getattr(module, "teacher", None)
    networks: dict[str, Any] = {
        "weights": getattr(module, "trained_network", module.net),
        "teacher": getattr(teacher, "trained_network", None),
    }
    found = {name: network for name, network in networks.items() if isinstance(network, nn.Module)}
    # The digest of a teacher that was cast or sharded differs from that of its own run.
    if getattr(teacher, "sharded", False) or any(p.dtype != torch.float32 for p in module.parameters()):
        found.pop("teacher", None)
    return {name: weights_digest(network) for name, network in found.items()}


def measured_on(
    trainer: Trainer, module: LightningModule, run: Path, images: int, class_images: Sequence[int]
) -> dict[str, Any]:
    """Return `measured_on` of `results.json`.

    Data modules of others are identified by the number of test images of each class.
    """
    weights = weights_of(module)["weights"]
    path = Path(trainer.ckpt_path) if trainer.ckpt_path else None
    checkpoint = str(path.resolve()) if path else None
    if path and path.resolve().parent == (run / "checkpoints").resolve():
        checkpoint = path.stem
    elif weights == read_results(run).get("fit", {}).get("weights"):
        checkpoint = "last"
    data = data_of(trainer)
    known = hasattr(data, "test_digest")
    return {
        "images": images,
        "of": _test_count(trainer),
        "data": data.test_digest() if known else hashlib.sha256(repr([*class_images]).encode()).hexdigest(),
        **({"mean": data.mean.tolist(), "std": data.std.tolist()} if known else {}),
        **({"part": data.test_part} if getattr(data, "test_part", "test") != "test" else {}),
        "checkpoint": checkpoint,
        "weights": weights,
        "precision": str(trainer.precision),
        "code": code_version(),
    }


def _test_count(trainer: Trainer) -> int | None:
    """Return the size of the test set; None if its loaders do not have it."""
    data = data_of(trainer)
    if hasattr(data, "test_count"):
        return int(data.test_count)
    loaders: Any = trainer.test_dataloaders
    try:
        return sum(len(each.dataset) for each in (loaders if isinstance(loaders, list) else [loaders]))
    except (AttributeError, TypeError):
        return None
