"""Compare exported files with PyTorch."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd_lightning.export.classifier import ImageClassifier
from kd_lightning.export.probe import Predictor
from kd_lightning.utils.network_output import logits_of
from kd_lightning.utils.progress import progress_bar

TOLERANCE = 1e-3
"""Largest accepted difference of a probability: rounding causes 1e-6, a lost layer far more."""

BATCH_SIZE = 128

RANDOM_IMAGES = 256
"""Images of noise to compare on if there are no test images."""


class Deviation(NamedTuple):
    """Deviation of a file from PyTorch.

    Attributes:
        difference: largest difference of a probability; NaN if one is NaN.
        agreement: fraction of images with the same predicted class.
        errors: misclassified images; None without labels.
        images: number of images.
    """

    difference: float
    agreement: float
    errors: int | None
    images: int


class StoredTestSet:
    """Stored images of a data module's test set: uint8 batches (B, C, H, W).

    The first batch has one image, for which libraries use other code.
    """

    def __init__(self, data: Any) -> None:
        self.data = data
        self.index = torch.arange(len(data.test_dataloader().dataset))

    def parts(self) -> list[Tensor]:
        """Return the indices of each batch."""
        return [self.index[:1], *(part for part in self.index[1:].split(BATCH_SIZE) if len(part))]

    def __len__(self) -> int:
        return len(self.parts())

    def __iter__(self) -> Iterator[Tensor]:
        return (self.data.stored_images(part, train=False) for part in self.parts())


def random_images(shape: tuple[int, int, int]) -> list[Tensor]:
    """Return noise in uint8 batches (B, *shape), the first of one image."""
    generator = torch.Generator().manual_seed(0)
    sizes = [1, *[BATCH_SIZE] * (RANDOM_IMAGES // BATCH_SIZE)]
    return [torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=generator) for size in sizes]


class Reference:
    """Images with PyTorch's probabilities.

    Args:
        images: uint8 batches, iterated over several times.
        probabilities: float32 (N, classes), of all images.
        label: int64 (N,), if known.
    """

    def __init__(self, images: Iterable[Tensor], probabilities: Tensor, label: Tensor | None = None) -> None:
        self.images, self.probabilities, self.label = images, probabilities, label

    @classmethod
    def of(cls, classifier: ImageClassifier, images: Iterable[Tensor]) -> "Reference":
        """Run a classifier on images without labels."""
        with torch.no_grad():
            return cls(images, torch.cat([classifier(batch) for batch in images]))

    @classmethod
    def of_test_set(cls, classifier: ImageClassifier, data: Any) -> "Reference":
        """Run a classifier's network on a data module's test set, with the data module's preprocessing."""
        images = StoredTestSet(data)
        probabilities, label = [], []
        with torch.no_grad():
            for part in progress_bar(images.parts(), "testing"):
                batch = data.make_batch(part, train=False)
                probabilities.append(logits_of(classifier.network(batch.image.contiguous())).float().softmax(dim=-1))
                label.append(batch.label)
        return cls(images, torch.cat(probabilities), torch.cat(label))

    @property
    def itself(self) -> Deviation:
        """Errors of PyTorch itself."""
        return self._compared(self.probabilities)

    def compare(self, predictor: Predictor, name: str) -> Deviation:
        """Run a predictor on every image; `name` is the label of the progress bar."""
        return self._compared(torch.cat([predictor(batch) for batch in progress_bar(self.images, f"comparing {name}")]))

    def _compared(self, found: Tensor) -> Deviation:
        if found.shape != self.probabilities.shape:
            return Deviation(float("nan"), 0.0, None, len(self.probabilities))
        named, expected = found.argmax(dim=-1), self.probabilities.argmax(dim=-1)
        errors = None if self.label is None else int((named != self.label).sum())
        agreement = (named == expected).double().mean().item()
        return Deviation((found - self.probabilities).abs().max().item(), agreement, errors, len(found))
