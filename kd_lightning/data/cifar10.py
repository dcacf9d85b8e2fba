"""CIFAR-10, through torchvision."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torchvision.datasets import CIFAR10

from kd_lightning.data.module import ClassificationDataModule
from kd_lightning.data.sets import ImageSet
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.download import short_timeout
from kd_lightning.utils.paths import expand

SIDE = 32
"""Height and width of the images, in pixels."""


class CIFAR10DataModule(ClassificationDataModule):
    """50,000 training and 10,000 test photographs of ten classes, 32x32 colour pixels.

    With another `image_size`, the 32x32 images are augmented (a crop by 4 is by 4 of their pixels), and each batch is
    resized on the device, bilinearly.

    Args:
        root: folder of `cifar-10-batches-py/`; missing files are downloaded.
        image_size: height and width of the network's input, in pixels, at least 1.
        mean: subtracted from pixels in [0, 1]; by default ImageNet's, as in the tutorial.
        std: divisor after that; by default ImageNet's.
        **kwargs: see `ClassificationDataModule`.

    Raises:
        UserError: the files are not in `root` and cannot be downloaded, or are damaged.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.
    """

    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    stored_shape = (3, SIDE, SIDE)

    def __init__(
        self,
        root: str = "data",
        image_size: int = SIDE,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        **kwargs: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, **kwargs)
        if image_size < 1:
            raise UserError(f"image_size: {image_size} found, at least 1 pixel expected")
        self.root = expand(root, "root")
        self.image_shape = (3, image_size, image_size)

    def prepare_data(self) -> None:
        """Download missing files."""
        folder = Path(self.root, CIFAR10.base_folder)
        if all((folder / name).is_file() for name in _files()):
            return  # `load` reports unreadable ones
        try:
            with short_timeout():
                CIFAR10(self.root, train=True, download=True)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"CIFAR-10: not found in {folder} and cannot be downloaded ({one_line(error)}); unpack "
                "cifar-10-python.tar.gz there, or name the folder above with --data.root"
            ) from error

    def load(self, train: bool) -> ImageSet:
        """Read one part; torchvision verifies the checksums of its files."""
        try:
            part = CIFAR10(self.root, train=train)
        except (RuntimeError, OSError, ValueError, KeyError, EOFError, UnpicklingError) as error:
            raise UserError(
                f"CIFAR-10: cannot read the files in {Path(self.root, CIFAR10.base_folder)} ({one_line(error)}); "
                "delete the damaged file to have it downloaded anew"
            ) from error
        return ImageSet(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))


def _files() -> list[str]:
    batches = [name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)]
    return [*batches, CIFAR10.meta["filename"]]
