"""Export a network to a file, compared with PyTorch before the file is put in place."""

from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor, nn

from kd_lightning.checkpoints.description import Description
from kd_lightning.errors import UserError
from kd_lightning.export.classifier import ImageClassifier
from kd_lightning.export.digest import write_digest
from kd_lightning.export.formats import SUFFIXES, metadata, open_exported, trace, write_onnx, write_torch
from kd_lightning.export.int8 import write_int8
from kd_lightning.export.verify import TOLERANCE, Deviation, Reference, random_images
from kd_lightning.utils.atomic_write import atomic_write


def export_network(
    network: nn.Module,
    description: Description,
    path: str | Path,
    images: Iterable[Tensor] | None = None,
) -> Deviation:
    """Write a trained network, with normalisation and softmax, to a file that runs without this project.

    Args:
        network: normalised images (B, C, H, W) to logits (B, classes); not modified.
        description: the images it reads, and its class names.
        path: `.onnx` or `.pt2`; an existing file is replaced once the new one is verified.
        images: uint8 batches (B, C, H, W) of the stored shape on which file and PyTorch are compared; noise by default.

    Returns:
        The deviation of the file's probabilities from PyTorch's.

    Raises:
        UserError: another suffix, a missing package, a network that cannot be exported, or probabilities that differ
            from PyTorch's; nothing is written then.
    """
    path, classifier = Path(path), ImageClassifier(network, description)
    if path.suffix not in SUFFIXES.values():
        raise UserError(f"export: {path} found, a name with {' or '.join(SUFFIXES.values())} expected")
    batches = random_images(description.stored_shape) if images is None else [*images]
    if not batches:
        raise UserError("images: none found, at least one batch expected")
    return export_checked(classifier, description, path, Reference.of(classifier, batches))


def export_checked(
    classifier: ImageClassifier, description: Description, path: Path, reference: Reference, checkpoint: str = ""
) -> Deviation:
    """Write a classifier to `.onnx` or `.pt2`; see `export_network`.

    Args:
        classifier: the network to write.
        description: the images it reads, and its class names.
        path: the file.
        reference: images with PyTorch's probabilities.
        checkpoint: SHA-256 of the network's checkpoint.
    """
    entries = metadata(description, type(classifier.network).__name__, checkpoint)

    def write(temporary: Path) -> None:
        program = trace(classifier, description)
        if path.suffix == SUFFIXES["onnx"]:
            write_onnx(program, entries, classifier.network, temporary)
        else:
            write_torch(program, entries, temporary)

    return _checked(write, path, reference, TOLERANCE)


def export_int8(source: Path, images: Iterable[Tensor], path: Path, reference: Reference) -> Deviation:
    """Quantise an exported ONNX file; any deviation from PyTorch is accepted and returned."""
    return _checked(lambda temporary: write_int8(source, images, temporary), path, reference, tolerance=1.0)


def _checked(write: Callable[[Path], None], path: Path, reference: Reference, tolerance: float) -> Deviation:
    """Write a file, open it, compare it with PyTorch, and put it in place if it agrees."""
    with atomic_write(path) as temporary:
        write(temporary)
        write_digest(temporary)
        _, predictor = open_exported(temporary, "export")
        found = reference.compare(predictor, path.name)
        if not found.difference <= tolerance:  # also refuses NaN
            raise UserError(
                f"export: {path.name} differs from PyTorch by up to {found.difference:.2g} in a probability, at most "
                f"{tolerance} expected ({found.agreement:.2%} of {found.images} images in the same class); not written"
            )
    return found
