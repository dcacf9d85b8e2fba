"""Data modules, one a dataset, and the views that they can show their images under."""

from kd_lightning.data.base import ClassificationDataModule, ImageSet
from kd_lightning.data.digits import DigitsDataModule
from kd_lightning.data.mnist import MNISTDataModule
from kd_lightning.data.views import Identity, Shift, ViewFamily

__all__ = [
    "ClassificationDataModule",
    "DigitsDataModule",
    "Identity",
    "ImageSet",
    "MNISTDataModule",
    "Shift",
    "ViewFamily",
]
