"""Data modules, one a dataset, and the views that they can show their images under."""

from kd_lightning.data.base import ClassificationDataModule
from kd_lightning.data.cifar10 import CIFAR10DataModule
from kd_lightning.data.digits import DigitsDataModule
from kd_lightning.data.mnist import MNISTDataModule
from kd_lightning.data.sets import ImageSet, StreamedSet
from kd_lightning.data.views import CropFlip, Identity, Shift, ViewFamily

__all__ = [
    "CIFAR10DataModule",
    "ClassificationDataModule",
    "CropFlip",
    "DigitsDataModule",
    "Identity",
    "ImageSet",
    "MNISTDataModule",
    "Shift",
    "StreamedSet",
    "ViewFamily",
]
