"""Images that two parts of a dataset share, pixel for pixel, and classes that a part lacks."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

log = logging.getLogger(__name__)

PAIRS = (("training", "validation"), ("test", "training"), ("test", "validation"))
"""Parts that are compared: the figures of the first one, or of both, are too good where they share images."""

DIGEST_BYTES = 16
"""Length of an image's digest: two different images have the same one with a probability of 2**-128."""

NAMED = 5
"""Classes that a warning names; the others it counts."""


def digest_of(pixels: bytes) -> bytes:
    """Digest of one image's pixels."""
    return hashlib.blake2b(pixels, digest_size=DIGEST_BYTES).digest()


def digests_of(images: Tensor) -> list[bytes]:
    """Digest of each image of uint8 (N, C, H, W)."""
    return [digest_of(image.tobytes()) for image in images.numpy()]


def count_copies(digests: Iterable[bytes], others: Iterable[bytes]) -> int:
    """Count the images, by their digests, that are among the others too."""
    known = set(others)
    return sum(digest in known for digest in digests)


def warn_of_copies(
    place: str, digests: Mapping[str, Sequence[bytes]], pairs: Iterable[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Warn of images of one part that are among those of another too.

    Args:
        place: what the dataset is called.
        digests: of each part's images, by the part's name; a part may be missing.
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
    """Warn of the classes that none of the test set's labels, int64 (N,), is of."""
    lacking = sorted({*range(len(class_names))} - {*label.unique().tolist()})
    if lacking:
        names = ", ".join(str(class_names[number]) for number in lacking[:NAMED])
        more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        log.warning(f"{place}: no test image of {names}{more}, which a test then says nothing about")
