"""Start a network from published weights or a checkpoint whose last layer may have other classes."""

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from kd_lightning.checkpoints.description import KEY, read_description
from kd_lightning.checkpoints.file import read_weights
from kd_lightning.checkpoints.state_dicts import Wanted, candidates
from kd_lightning.checkpoints.weights import fitting_weights, resolve_checkpoint, search_parts

OPTION = "init_from"


def load_initial_weights(network: nn.Module, path: str, class_names: Any) -> None:
    """Load a file's weights into a network, but for a last layer of other classes, which stays as it was initialised.

    The last layer is left out if the file has it with another number of outputs, or lacks it, or names other classes.

    Args:
        network: receives the weights.
        path: a checkpoint of this project, a run folder, or a file saved with torch or safetensors.
        class_names: of the data; None if it has none.

    Raises:
        UserError: the file cannot be read, or more than the last layer does not fit.
    """
    file = resolve_checkpoint(path, OPTION)
    content = read_weights(file, OPTION)
    head = _head_of_other_classes(network, content, file, class_names)
    if head is None:
        network.load_state_dict(fitting_weights(network, content, file, OPTION))
        return
    network.load_state_dict(fitting_weights(network, content, file, OPTION, head=f"{head}."), strict=False)
    kept = [name for name in network.state_dict() if name.startswith(f"{head}.")]
    rank_zero_info(f"{OPTION}: {file}: loaded, but for {' and '.join(kept)}: the file has other classes")


def _head_of_other_classes(network: nn.Module, content: Any, file: Path, class_names: Any) -> str | None:
    """Return the name of the layer that cannot be loaded as the classes differ; None if all can be loaded."""
    tried = [found for part in search_parts(content) for found in candidates(Wanted.of(network), part)]
    fits = any(not candidate.problems for candidate in tried)
    if fits and not _names_other_classes(content, file, class_names):
        return None
    if fits:
        return _last_layer(network)
    expected = network.state_dict()
    for candidate in sorted(tried, key=lambda candidate: len(candidate.problems)):
        misfits = [name for name, tensor in expected.items() if not _fits(candidate.weights.get(name), tensor)]
        layers = {name.rpartition(".")[0] for name in misfits}
        resized = all(_has_other_outputs(candidate.weights.get(name), expected[name]) for name in misfits)
        if len(layers) == 1 and (resized or layers == {_last_layer(network)}):
            return layers.pop()
    return None  # `fitting_weights` reports what does not fit


def _names_other_classes(content: Any, file: Path, class_names: Any) -> bool:
    plain = content.get(KEY) if isinstance(content, dict) else None
    trained = read_description(plain, f"{OPTION}: {file}") if plain else None
    return bool(trained and class_names and [*trained.class_names] != [*map(str, class_names)])


def _last_layer(network: nn.Module) -> str:
    """Return the name of the last layer with weights."""
    return [name for name, module in network.named_modules() if [*module.parameters(recurse=False)]][-1]


def _fits(found: Tensor | None, expected: Tensor) -> bool:
    return found is not None and found.shape == expected.shape


def _has_other_outputs(found: Tensor | None, expected: Tensor) -> bool:
    return found is not None and found.dim() == expected.dim() > 0 and found.shape[1:] == expected.shape[1:]
