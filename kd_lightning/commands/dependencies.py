"""Digests of what the figures of a run depend on besides its options: the data, and the weights that options name."""

import hashlib
from pathlib import Path
from typing import Any

from kd_lightning.checkpoints.digest import weights_digest
from kd_lightning.checkpoints.file import read_weights
from kd_lightning.checkpoints.weights import resolve_checkpoint
from kd_lightning.cli import lightning
from kd_lightning.errors import UserError
from kd_lightning.reports.results import read_results

WEIGHTS = (".ckpt", ".pt", ".pth", ".th", ".safetensors")
"""Suffixes of weights files. Their content is part of a run's settings."""


def data_digest(data: dict[str, Any]) -> str:
    """Return a digest of the images and labels of a data config, or of their files.

    Raises:
        UserError: there are no test images.
    """
    module = lightning.build_data(data)
    module.prepare_data()
    module.setup("test")
    files = getattr(module, "fingerprint", "")
    if files or not hasattr(module, "content_digest"):
        return str(files)
    module.setup("fit")
    return f"{module.content_digest(train=True)} {module.content_digest(train=False)}"


def weights_digests(options: Any) -> dict[str, str]:
    """Return the digests of the weights files and run folders that a model's options name, by path."""
    if isinstance(options, dict | list):
        each = options.values() if isinstance(options, dict) else options
        return {path: digest for option in each for path, digest in weights_digests(option).items()}
    if not isinstance(options, str) or not options:
        return {}
    path = Path(options)
    if (path / "checkpoints").is_dir():
        try:
            path = resolve_checkpoint(path, options)
        except UserError:  # a finished run may have lost its checkpoints
            return {options: str(read_results(path).get("measured_on", {}).get("weights"))}
    elif not path.name.endswith(WEIGHTS) or not path.is_file():
        return {}
    content = read_weights(path, options) if path.suffix == ".ckpt" else None
    if not isinstance(content, dict) or "state_dict" not in content:
        return {options: hashlib.sha256(path.read_bytes()).hexdigest()}
    # Two checkpoints of the same training differ in its duration, but not in the weights.
    network = {name[4:]: value for name, value in content["state_dict"].items() if name.startswith("net.")}
    return {options: weights_digest(network or content["state_dict"])}
