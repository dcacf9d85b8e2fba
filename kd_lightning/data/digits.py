"""scikit-learn's handwritten digits, which need no download."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from kd_lightning.data.module import ClassificationDataModule
from kd_lightning.data.sets import ImageSet


class DigitsDataModule(ClassificationDataModule):
    """1,797 real handwritten digits, 8x8 pixels, 17 grey levels, bundled with scikit-learn.

    The first 1,437 are the training set, the last 360 the test set. The file is in the order of its writers, so most
    writers of test digits do not occur in training.

    Args:
        mean: subtracted from pixels in [0, 1].
        std: divisor after that.
        **kwargs: see `ClassificationDataModule`.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI repository (its test part).
    """

    class_names = tuple("0123456789")
    image_shape = (1, 8, 8)
    test_size = 360

    def __init__(self, mean: Sequence[float] = (0.3054,), std: Sequence[float] = (0.3755,), **kwargs: Any) -> None:
        super().__init__(mean=mean, std=std, **kwargs)

    def load(self, train: bool) -> ImageSet:
        """Read scikit-learn's file and scale its 0..16 to 0..255."""
        digits = load_digits()
        part = slice(None, -self.test_size) if train else slice(-self.test_size, None)
        pixels = np.rint(digits.images[part] * (255 / 16)).astype(np.uint8)
        return ImageSet(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(digits.target[part].astype(np.int64)))
