"""CIFAR-10, through torchvision."""

from collections.abc import Sequence
from typing import Any

from torchvision.datasets import CIFAR10

from kd_lightning.data.module import ClassificationDataModule
from kd_lightning.data.sets import ImageSet
from kd_lightning.data.torchvision_source import TorchvisionSource
from kd_lightning.errors import UserError
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
        needed = "unpack cifar-10-python.tar.gz there"
        self._source = TorchvisionSource("CIFAR10", self.root, files=_files(), needed=needed, title="CIFAR-10")
        self.image_shape = (3, image_size, image_size)

    def prepare_data(self) -> None:
        """Download missing files."""
        self._source.prepare()

    def load(self, train: bool) -> ImageSet:
        """Read one part; torchvision verifies the checksums of its files."""
        return self._source.arrays("train" if train else "test")


def _files() -> list[str]:
    batches = [name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)]
    return [f"{CIFAR10.base_folder}/{name}" for name in (*batches, CIFAR10.meta["filename"])]
