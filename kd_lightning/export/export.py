"""A network in a file that runs without this project, compared with PyTorch before it is there."""

from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor, nn

from kd_lightning.checkpoints.description import Description
from kd_lightning.errors import UserError
from kd_lightning.export.classifier import ImageClassifier
from kd_lightning.export.digest import write_digest
from kd_lightning.export.formats import SUFFIXES, metadata, open_exported, trace, write_onnx, write_torch
from kd_lightning.export.int8 import write_int8
from kd_lightning.export.verify import TOLERANCE, Comparison, Reference, random_images
from kd_lightning.utils.atomic_write import atomic_write


def export_network(
    network: nn.Module,
    description: Description,
    path: str | Path,
    images: Iterable[Tensor] | None = None,
) -> Comparison:
    """Write a trained network, with normalisation and softmax, to a file that runs without this project.

    Args:
        network: normalised images (B, C, H, W) to logits (B, classes); it is left as it is.
        description: what it reads, and what its classes are called.
        path: `.onnx` or `.pt2`; a file that is there is replaced, once the new one is checked.
        images: uint8 batches (B, C, H, W) of the stored shape, on which the file must say what PyTorch says; noise by
            default.

    Returns:
        How far the file's probabilities are from PyTorch's.

    Raises:
        UserError: another suffix, a package that is missing, a network that cannot be exported, or a file that says
            something else than PyTorch; nothing is written then.
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
) -> Comparison:
    """Write a classifier to `.onnx` or `.pt2`; see `export_network`.

    Args:
        classifier: what is written.
        description: what it reads.
        path: where to.
        reference: what PyTorch says.
        checkpoint: SHA-256 of the file that the network came from.
    """
    said = metadata(description, type(classifier.network).__name__, checkpoint)

    def write(temporary: Path) -> None:
        program = trace(classifier, description)
        if path.suffix == SUFFIXES["onnx"]:
            write_onnx(program, said, classifier.network, temporary)
        else:
            write_torch(program, said, temporary)

    return _checked(write, path, reference, TOLERANCE)


def export_int8(source: Path, images: Iterable[Tensor], path: Path, reference: Reference) -> Comparison:
    """Quantise an exported ONNX file; how far its answers are from PyTorch's is for its user to judge."""
    return _checked(lambda temporary: write_int8(source, images, temporary), path, reference, tolerance=1.0)


def _checked(write: Callable[[Path], None], path: Path, reference: Reference, tolerance: float) -> Comparison:
    """Write a file, open it again and ask it; it is put in place if it says what it should."""
    with atomic_write(path) as temporary:
        write(temporary)
        write_digest(temporary)
        _, answer = open_exported(temporary, "export")
        found = reference.compare(answer, path.name)
        if not found.difference <= tolerance:  # a number that is none, too
            raise UserError(
                f"export: {path.name} differs from PyTorch by up to {found.difference:.2g} in a probability, at most "
                f"{tolerance} expected ({found.agreement:.2%} of {found.images} images in the same class); not written"
            )
    return found
