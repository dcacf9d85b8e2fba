"""Data module for torchvision's classification datasets."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kd_lightning.batch import UNLABELLED
from kd_lightning.data.decoded import DecodedDataModule
from kd_lightning.data.image_files import WHOLE, Labelled
from kd_lightning.data.module import ClassificationDataModule
from kd_lightning.data.sets import ImageSet, StreamedSet
from kd_lightning.data.torchvision_source import TorchvisionSource
from kd_lightning.errors import UserError
from kd_lightning.utils.paths import expand

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's red, green and blue."""

IMAGENET_GREY = (0.449,), (0.226,)
"""Their means over the three channels."""

LUMA = (19595, 38470, 7471)
"""Pillow's weights of red, green and blue in grey (ITU-R 601-2), in 65536ths."""


class TorchvisionDataModule(DecodedDataModule):
    """One of torchvision's classification datasets, by the name of its class in `torchvision.datasets`.

    That is any class whose items are an image and a class number: FashionMNIST, KMNIST, EMNIST, QMNIST, CIFAR10,
    CIFAR100, SVHN, STL10, USPS, FER2013 and others of arrays, which stay in memory in file order; and EuroSAT,
    Flowers102, OxfordIIITPet, Food101, GTSRB, DTD, StanfordCars, FGVCAircraft, Caltech101, Country211, Imagenette and
    others of files, which are decoded, cached and streamed as in `DecodedDataModule`. Missing files are downloaded,
    when the module is created if the names of the classes are in them.

    The training, validation and test parts are torchvision's, by its arguments `train` or `split`. A dataset without
    validation images may hold out `val_size`; one without any split (EuroSAT, Caltech101, SUN397, SEMEION) is split by
    `split`.

    Args:
        dataset: name of the class.
        root: torchvision's `root`; the files are in the folders below it that torchvision makes.
        image_size: height and width of the network's input, in pixels; by default that of arrays, and 64 for files.
            Arrays are augmented at their own size and then resized on the device, bilinearly.
        stored_size: see `DecodedDataModule`; for files.
        grey: use one channel, or with false three, whatever the images have; by default as many as arrays have, and
            three for files.
        train_split: torchvision's `split` of the training images, such as `trainval`; by default `train`.
        val_split: that of the validation images; by default `val` or `valid`, unless they are part of `train_split`.
        test_split: that of the test images; by default `test`, or the validation split if there is none, or none with
            labels; a message tells.
        dataset_kwargs: further arguments of the class, such as `{split: letters}` for EMNIST.
        mean: subtracted from pixels in [0, 1]; by default ImageNet's, and for grey images 0.449.
        std: divisor after that; by default ImageNet's, and for grey images 0.226.
        **kwargs: see `DecodedDataModule`.

    Raises:
        UserError: an unknown dataset, split or argument; files that are missing and cannot be downloaded, or cannot be
            read; or items of another kind.
    """

    def __init__(
        self,
        dataset: str,
        root: str = "data",
        image_size: int | None = None,
        stored_size: int | None = None,
        grey: bool | None = None,
        train_split: str | None = None,
        val_split: str | None = None,
        test_split: str | None = None,
        dataset_kwargs: dict[str, Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._finds_test = test_split is None
        splits = {"train": train_split, "val": val_split, "test": test_split}
        self._source = TorchvisionSource(dataset, expand(root, "root"), splits, dataset_kwargs)
        shape = self._source.array_shape
        if shape:
            channels, height, width = shape
            if height != width or stored_size not in (None, height):
                found = f"{height} x {width} pixels" if height != width else f"stored_size: {stored_size}"
                raise UserError(f"{found} found, but {dataset} has arrays of {height} x {width}; use image_size")
            if kwargs.get("unlabelled"):
                raise UserError(f"unlabelled: found, but {dataset} has arrays; only images of files can be added")
            image_size, stored_size = image_size if image_size is not None else height, height
            grey = channels == 1 if grey is None else grey
        usual_mean, usual_std = IMAGENET_GREY if grey else IMAGENET
        super().__init__(
            root,
            64 if image_size is None else image_size,
            stored_size,
            grey=bool(grey),
            mean=usual_mean if mean is None else mean,
            std=usual_std if std is None else std,
            **kwargs,
        )
        self.class_names = self._source.class_names
        self.has_unlabelled = self.has_unlabelled or self._source.has_unlabelled

    def find(self) -> dict[str, Labelled]:
        """List the files with their class numbers, by part; for arrays, their numbers."""
        found = {part: self._source.labelled(part) for part in self._source.parts}
        if self._finds_test and all(label == UNLABELLED for _, label in found.get("test", ())):
            found.pop("test", None)  # its labels are not published
        return found

    @property
    def fingerprint(self) -> str:
        """See `DecodedDataModule`; empty for arrays, whose content is digested."""
        return "" if self._source.array_shape else super().fingerprint

    def prepare_data(self) -> None:
        """Download missing files, and decode all files that are not cached."""
        self._source.prepare()
        if not self._source.array_shape:
            super().prepare_data()

    def load(self, train: bool) -> ImageSet | StreamedSet:
        """Return one part."""
        return self._load_arrays(train) if self._source.array_shape else super().load(train)

    def _load_arrays(self, train: bool) -> ImageSet:
        if WHOLE in self._source.parts:
            files = self._files[train]
            places, self._val = torch.tensor(files.paths, dtype=torch.int64), files.val
            return ImageSet(self._channels_of(self._source.arrays(WHOLE).image)[places], files.label)
        parts = ("val", "train") if train else (self.test_part,)
        sets = [self._source.arrays(part) for part in parts if part in self._source.parts]
        image, label = (torch.cat(each) if len(each) > 1 else each[0] for each in zip(*sets, strict=True))
        self._val = torch.arange(len(label)) < (len(sets[0].label) if len(sets) > 1 else 0)
        return ImageSet(self._channels_of(image), label)

    def _channels_of(self, image: Tensor) -> Tensor:
        """Convert uint8 (N, C, H, W) to one channel as Pillow does, or repeat the only channel."""
        channels = self.decoder.channels
        if image.shape[1] == channels:
            return image
        if channels == 3:
            return image.expand(-1, 3, -1, -1).contiguous()
        grey = sum((weight * image[:, c].int() for c, weight in enumerate(LUMA)), torch.tensor(2**15))
        return (grey >> 16).to(torch.uint8).unsqueeze(1)

    def part_digests(self) -> dict[str, list[bytes]]:
        """Return digests of the images by part, to find copies between them."""
        return ClassificationDataModule.part_digests(self) if self._source.array_shape else super().part_digests()
