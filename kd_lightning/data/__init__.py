"""Data modules, one for each dataset, and families of augmented views."""

from kd_lightning.data.cifar10 import CIFAR10DataModule
from kd_lightning.data.digits import DigitsDataModule
from kd_lightning.data.dogs_vs_cats import DogsVsCatsDataModule
from kd_lightning.data.hugging_face import HuggingFaceDataModule
from kd_lightning.data.image_folder import ImageFolderDataModule
from kd_lightning.data.mixes import CutMix, Mix, MixUp
from kd_lightning.data.mnist import MNISTDataModule
from kd_lightning.data.module import ClassificationDataModule
from kd_lightning.data.random_views import RandomViews
from kd_lightning.data.sets import ImageSet, StreamedSet
from kd_lightning.data.torchvision_datasets import TorchvisionDataModule
from kd_lightning.data.views import CropFlip, Identity, Shift, ViewFamily

__all__ = [
    "CIFAR10DataModule",
    "ClassificationDataModule",
    "CropFlip",
    "CutMix",
    "DigitsDataModule",
    "DogsVsCatsDataModule",
    "HuggingFaceDataModule",
    "Identity",
    "ImageFolderDataModule",
    "ImageSet",
    "MNISTDataModule",
    "Mix",
    "MixUp",
    "RandomViews",
    "Shift",
    "StreamedSet",
    "TorchvisionDataModule",
    "ViewFamily",
]
