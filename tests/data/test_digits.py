import numpy as np
import torch
from sklearn.datasets import load_digits

from kd_lightning.data import DigitsDataModule


def test_the_digits_are_1437_for_training_and_360_for_the_test() -> None:
    data = DigitsDataModule()
    for train, count in ((True, 1437), (False, 360)):
        image, label = data.load(train)
        assert tuple(image.shape) == (count, 1, 8, 8)
        assert (image.dtype, label.dtype) == (torch.uint8, torch.int64)
        assert (int(image.min()), int(image.max())) == (0, 255)
        assert label.unique().tolist() == list(range(10))


def test_the_parts_are_disjoint_and_together_the_file_in_its_order() -> None:
    train, test = DigitsDataModule().load(True), DigitsDataModule().load(False)
    digits = load_digits()
    together = torch.cat([train.image, test.image])[:, 0].numpy()
    np.testing.assert_allclose(together / 255 * 16, digits.images, atol=0.04)  # half a grey level of 255
    assert torch.cat([train.label, test.label]).tolist() == digits.target.tolist()
    assert not {i.numpy().tobytes() for i in train.image} & {i.numpy().tobytes() for i in test.image}


def test_the_default_normalisation_is_the_training_sets_to_a_thousandth() -> None:
    data = DigitsDataModule()
    pixels = data.load(True).image / 255
    torch.testing.assert_close(data.mean, pixels.mean().view(1), rtol=0, atol=1e-3)
    torch.testing.assert_close(data.std, pixels.std().view(1), rtol=0, atol=1e-3)
