"""Random images in the sizes of MNIST and CIFAR-10: the time of a step does not depend on the pixels."""

from typing import Any

import torch
from torchvision.datasets import CIFAR10, MNIST

from kd_lightning.data import CIFAR10DataModule, ImageSet, MNISTDataModule

TEST_IMAGES = 1000
"""Images of the test set, which is not timed."""


def random_images(count: int, shape: tuple[int, int, int]) -> ImageSet:
    """Generate `count` images, uint8 of (C, H, W) = `shape`, in ten classes; the same ones every time."""
    generator = torch.Generator().manual_seed(count)
    image = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    return ImageSet(image, torch.randint(10, (count,), generator=generator))


class _Random:
    """Mixin before a data module that replaces its files by random images.

    Args:
        images: size of the training set.
        **kwargs: arguments of the data module.
    """

    stored_shape: tuple[int, int, int]

    def __init__(self, images: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.images = images

    def prepare_data(self) -> None:
        """Download nothing."""

    def load(self, train: bool) -> ImageSet:
        """Generate the training or the test set."""
        return random_images(self.images if train else TEST_IMAGES, self.stored_shape)


class RandomMNIST(_Random, MNISTDataModule):
    """MNIST's data module with random images."""


class RandomCIFAR10(_Random, CIFAR10DataModule):
    """CIFAR-10's data module with random images."""


class TorchvisionMNIST(MNIST):
    """torchvision's dataset with random images: one PIL image at a time, through its transform."""

    def __init__(self, images: int, transform: Any) -> None:
        self.transform, self.target_transform = transform, None
        part = random_images(images, RandomMNIST.image_shape)
        self.data, self.targets = part.image.squeeze(1), part.label


class TorchvisionCIFAR10(CIFAR10):
    """torchvision's dataset with random images: one PIL image at a time, through its transform."""

    def __init__(self, images: int, transform: Any) -> None:
        self.transform, self.target_transform = transform, None
        part = random_images(images, RandomCIFAR10.stored_shape)
        self.data, self.targets = part.image.permute(0, 2, 3, 1).numpy(), part.label.tolist()
