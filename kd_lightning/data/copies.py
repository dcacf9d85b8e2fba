"""Find identical images in two parts of a dataset, and classes without test images."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

log = logging.getLogger(__name__)

PAIRS = (("training", "validation"), ("test", "training"), ("test", "validation"))
"""Parts to compare; where they share images, the figures of the first are too good."""

DIGEST_BYTES = 16
"""Length of an image's digest; two images collide with a probability of 2**-128."""

MAX_NAMED = 5
"""Classes that a warning names; it counts the others."""


def digest_of(pixels: bytes) -> bytes:
    """Return the digest of one image's pixels."""
    return hashlib.blake2b(pixels, digest_size=DIGEST_BYTES).digest()


def digests_of(images: Tensor) -> list[bytes]:
    """Return the digest of each image of uint8 (N, C, H, W)."""
    return [digest_of(image.tobytes()) for image in images.numpy()]


def count_copies(digests: Iterable[bytes], others: Iterable[bytes]) -> int:
    """Count the images that are among others, by their digests."""
    known = set(others)
    return sum(digest in known for digest in digests)


def warn_of_copies(
    place: str, digests: Mapping[str, Sequence[bytes]], pairs: Iterable[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Warn of images that two parts share.

    Args:
        place: name of the dataset.
        digests: digests of the images by name of the part; a part may be missing.
        pairs: the parts to compare.

    Returns:
        The pairs that could be compared.
    """
    known = {(part, other) for part, other in pairs if part in digests and other in digests}
    for part, other in sorted(known):
        if copies := count_copies(digests[part], digests[other]):
            figures = "a test" if part == "test" else "validation"
            log.warning(
                f"{place}: {copies} of the {len(digests[part])} {part} images are, pixel for pixel, among the {other} "
                f"images too: the figures of {figures} are too good"
            )
    return known


def warn_of_classes_without_test_images(place: str, label: Tensor, class_names: Sequence[str]) -> None:
    """Warn of classes that do not occur in the labels of the test set, int64 (N,)."""
    lacking = sorted({*range(len(class_names))} - {*label.unique().tolist()})
    if lacking:
        names = ", ".join(str(class_names[number]) for number in lacking[:MAX_NAMED])
        more = f" and {len(lacking) - MAX_NAMED} more" if len(lacking) > MAX_NAMED else ""
        log.warning(f"{place}: no test image of {names}{more}, which a test then says nothing about")
