"""Images that two parts of a dataset share, pixel for pixel, and classes that a part lacks."""

import hashlib
from collections.abc import Iterable, Sequence

from torch import Tensor

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


def name_classes(numbers: Iterable[int], class_names: Sequence[str]) -> str:
    """List classes by name, the first few of them, and how many more there are."""
    names = [str(class_names[number]) for number in sorted(numbers)]
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
