"""The bins of the calibration error, and the picture of them."""

import pytest
import torch

from kd_lightning.callbacks.plots.reliability import draw_reliability
from kd_lightning.modules.metrics import CALIBRATION_BINS, CalibrationError


def calibration() -> CalibrationError:
    """Five images: two in the bin from 8/15 to 9/15, three in the last, of which it names one and two right."""
    metric = CalibrationError()
    metric.update(torch.tensor([0.54, 0.95, 1.0]), torch.tensor([True, True, False]))
    metric.update(torch.tensor([0.58, 0.94]), torch.tensor([False, True]))
    return metric


def test_each_bin_holds_its_images_their_confidence_and_those_named_right() -> None:
    images, confidence, right = calibration().bins()
    expected = torch.zeros(3, CALIBRATION_BINS)
    expected[:, 8] = torch.tensor([2.0, 0.54 + 0.58, 1.0])
    expected[:, 14] = torch.tensor([3.0, 0.95 + 1.0 + 0.94, 2.0])
    torch.testing.assert_close(torch.stack([images, confidence, right]), expected)


def test_the_error_is_the_gap_of_each_bin_weighted_by_its_images() -> None:
    assert calibration().compute().item() == pytest.approx((abs(1 - 1.12) + abs(2 - 2.89)) / 5, abs=1e-6)


def test_the_picture_has_a_bar_a_bin_that_holds_images_as_high_as_its_accuracy() -> None:
    above, below = draw_reliability(calibration().bins(), "five images").axes
    assert above.get_title() == "five images"
    bars = [(round(bar.get_x() * CALIBRATION_BINS), bar.get_height()) for bar in above.patches]
    assert bars == [(8, 0.5), (14, pytest.approx(2 / 3))]
    (points,) = [line for line in above.lines if line.get_marker() == "o"]
    assert points.get_xdata() == pytest.approx([0.56, 2.89 / 3])
    assert [bar.get_height() for bar in below.patches] == [0.0] * 8 + [2.0] + [0.0] * 5 + [3.0]


def test_a_confidence_that_is_no_number_makes_no_number_of_the_error() -> None:
    metric = calibration()
    metric.update(torch.tensor([float("nan")]), torch.tensor([False]))
    assert metric.compute().isnan()
