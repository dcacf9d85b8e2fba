"""A bit per test image: as text, in a run's results, and against the run's errors."""

import numpy as np
import pytest

from kd_lightning.reports.right_images import pack, unpack

RIGHT = np.array([1, 0, 1, 1, 0, 0, 0, 0, 1], dtype=bool)  # 10110000 1, in bytes B0 80


def test_bits_are_bytes_in_base64() -> None:
    assert pack(RIGHT) == "sIA="
    assert unpack("sIA=", 9).tolist() == RIGHT.tolist()


@pytest.mark.parametrize("text", ["sIA", "sIA=sIA=", "sME=", "s", "?", 3, ["sIA="]])
def test_a_text_of_other_images_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="right_images"):
        unpack(text, 9)
