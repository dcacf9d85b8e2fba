"""MNIST, through torchvision."""

from collections.abc import Sequence
from typing import Any

from kd_lightning.data.module import ClassificationDataModule
from kd_lightning.data.sets import ImageSet
from kd_lightning.data.torchvision_source import TorchvisionSource
from kd_lightning.utils.paths import expand

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class MNISTDataModule(ClassificationDataModule):
    """60,000 training and 10,000 test images of handwritten digits, 28x28 grey pixels.

    Args:
        root: folder of `MNIST/raw/`; missing files are downloaded.
        mean: subtracted from pixels in [0, 1].
        std: divisor after that.
        **kwargs: see `ClassificationDataModule`.

    Raises:
        UserError: the files are not in `root` and cannot be downloaded, or cannot be read.

    Source: LeCun et al. 1998, Gradient-based learning applied to document recognition.
    """

    class_names = tuple("0123456789")
    image_shape = (1, 28, 28)

    def __init__(
        self,
        root: str = "data",
        mean: Sequence[float] = (0.1307,),
        std: Sequence[float] = (0.3081,),
        **kwargs: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, **kwargs)
        self.root = expand(root, "root")
        self._source = TorchvisionSource(
            "MNIST",
            self.root,
            files=[f"MNIST/raw/{name}" for name in FILES],
            needed="put its four files (train-images-idx3-ubyte, … or their .gz) there",
        )

    def prepare_data(self) -> None:
        """Download missing files."""
        self._source.prepare()

    def load(self, train: bool) -> ImageSet:
        """Read the images and labels of one part."""
        return self._source.arrays("train" if train else "test")
