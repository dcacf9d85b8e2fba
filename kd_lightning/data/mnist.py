"""MNIST, through torchvision."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision.datasets import MNIST

from kd_lightning.data.module import ClassificationDataModule
from kd_lightning.data.sets import ImageSet
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.download import short_timeout
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

    def prepare_data(self) -> None:
        """Download missing files."""
        folder = Path(self.root, "MNIST", "raw")
        if all((folder / name).is_file() for name in FILES):
            return  # `load` reports unreadable ones
        try:
            with short_timeout():
                MNIST(self.root, train=True, download=True)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"MNIST: not found in {folder} and cannot be downloaded ({one_line(error)}); put its four files "
                "(train-images-idx3-ubyte, … or their .gz) there, or name the folder above with --data.root"
            ) from error

    def load(self, train: bool) -> ImageSet:
        """Read the images and labels of one part."""
        try:
            part = MNIST(self.root, train=train)
        except (RuntimeError, OSError, ValueError, AssertionError, KeyError, IndexError) as error:
            raise UserError(
                f"MNIST: cannot read the files in {Path(self.root, 'MNIST', 'raw')} ({one_line(error)}); "
                "delete the damaged file to have it downloaded anew"
            ) from error
        return ImageSet(part.data.unsqueeze(1), part.targets)
