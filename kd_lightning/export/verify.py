"""What a network says in PyTorch, with which its exported files are compared."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd_lightning.export.classifier import ImageClassifier
from kd_lightning.export.probe import Answer
from kd_lightning.utils.progress import progress_bar

TOLERANCE = 1e-3
"""By which a probability may differ: rounding makes 1e-6 of it, another normalisation or a lost layer far more."""

BATCH = 128
"""Images at a time."""

RANDOM_IMAGES = 256
"""Shown where there are no test images."""


class Comparison(NamedTuple):
    """How an answer differs from PyTorch's.

    Attributes:
        difference: the largest, of any probability; not a number where one is not.
        agreement: fraction of the images that are given the same class.
        errors: images named wrong; None without labels.
        images: how many there were.
    """

    difference: float
    agreement: float
    errors: int | None
    images: int


class StoredTestSet:
    """The test set of a data module that is set up, as its images are stored: uint8 batches (B, C, H, W).

    The first is of one image: a batch of one takes ways of its own.
    """

    def __init__(self, data: Any) -> None:
        self.data = data
        self.index = torch.arange(len(data.test_dataloader().dataset))

    def parts(self) -> list[Tensor]:
        """The places of each batch."""
        return [self.index[:1], *(part for part in self.index[1:].split(BATCH) if len(part))]

    def __len__(self) -> int:
        return len(self.parts())

    def __iter__(self) -> Iterator[Tensor]:
        return (self.data.stored(part, train=False) for part in self.parts())


def random_images(shape: tuple[int, int, int]) -> list[Tensor]:
    """Noise, where there are no test images: uint8 batches (B, *shape), the first of one image."""
    generator = torch.Generator().manual_seed(0)
    sizes = [1, *[BATCH] * (RANDOM_IMAGES // BATCH)]
    return [torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=generator) for size in sizes]


class Reference:
    """Images with what PyTorch says of them.

    Args:
        images: uint8 batches, which can be gone through again and again.
        said: probabilities (N, classes) of all of them.
        label: int64 (N,), where they have one.
    """

    def __init__(self, images: Iterable[Tensor], said: Tensor, label: Tensor | None = None) -> None:
        self.images, self.said, self.label = images, said, label

    @classmethod
    def of(cls, classifier: ImageClassifier, images: Iterable[Tensor]) -> "Reference":
        """What a classifier says of images without labels."""
        with torch.no_grad():
            return cls(images, torch.cat([classifier(batch) for batch in images]))

    @classmethod
    def of_test_set(cls, classifier: ImageClassifier, data: Any) -> "Reference":
        """What a classifier's network says of a data module's test set, on the road that a test takes."""
        images = StoredTestSet(data)
        said, label = [], []
        with torch.no_grad():
            for part in progress_bar(images.parts(), "testing"):
                batch = data.deal(part, train=False)
                said.append(classifier.network(batch.image.contiguous()).float().softmax(dim=-1))
                label.append(batch.label)
        return cls(images, torch.cat(said), torch.cat(label))

    @property
    def itself(self) -> Comparison:
        """PyTorch's own answers, beside the labels."""
        return self._compared(self.said)

    def compare(self, answer: Answer, name: str) -> Comparison:
        """Ask for an answer to every image; `name` is shown with the bar of what takes long."""
        return self._compared(torch.cat([answer(batch) for batch in progress_bar(self.images, f"comparing {name}")]))

    def _compared(self, found: Tensor) -> Comparison:
        if found.shape != self.said.shape:
            return Comparison(float("nan"), 0.0, None, len(self.said))
        named, expected = found.argmax(dim=-1), self.said.argmax(dim=-1)
        errors = None if self.label is None else int((named != self.label).sum())
        agreement = (named == expected).double().mean().item()
        return Comparison((found - self.said).abs().max().item(), agreement, errors, len(found))
