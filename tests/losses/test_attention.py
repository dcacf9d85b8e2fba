import math

import pytest
import torch

from kd_lightning.errors import UserError
from kd_lightning.losses import AttentionTransferLoss


def maps(*rows: list[float]) -> torch.Tensor:
    """One image of height 1; a row for each channel."""
    return torch.tensor(rows, dtype=torch.float64)[None, :, None, :]


def test_attention_is_the_mean_of_powers_over_channels_scaled_to_length_1() -> None:
    # Squares: the student's (1 + 1) / 2 and (4 + 0) / 2, the teacher's 2 and 1; |(1, 2) / √5 - (2, 1) / √5|² = 2/5.
    student, teacher = maps([1, 2], [-1, 0]), maps([math.sqrt(2), -1])
    assert AttentionTransferLoss()(student, teacher).item() == pytest.approx(2 / 5 / 2)
    # Absolute values: 3 and 4, scaled to 0.6 and 0.8, and 0 and 1.
    student, teacher = maps([2, -3], [4, 5]), maps([0, 7])
    assert AttentionTransferLoss(power=1)(student, teacher).item() == pytest.approx((0.36 + 0.04) / 2)


def test_the_larger_map_is_averaged_to_the_smaller_one() -> None:
    wide, narrow = maps([1, 3, 2, 2]), maps([1, 0])  # the wide one becomes 2, 2
    expected = 1 - math.sqrt(1 / 2)  # ((√½ - 1)² + ½) / 2
    assert AttentionTransferLoss()(wide, narrow).item() == pytest.approx(expected)
    assert AttentionTransferLoss()(narrow, wide).item() == pytest.approx(expected)
    tall, flat = wide.transpose(2, 3), maps([1, 0])  # both become one place
    assert AttentionTransferLoss()(tall, flat).item() == pytest.approx(0)


def test_the_losses_of_several_layers_are_added() -> None:
    first, second = (maps([1, 2]), maps([2, 1])), (maps([1, 3, 2, 2]), maps([1, 0]))
    loss = AttentionTransferLoss()([first[0], second[0]], [first[1], second[1]]).item()
    q = [(1 / math.sqrt(17), 4 / math.sqrt(17)), (4 / math.sqrt(17), 1 / math.sqrt(17))]
    assert loss == pytest.approx(sum((a - b) ** 2 for a, b in zip(*q, strict=True)) / 2 + 1 - math.sqrt(1 / 2))


def test_a_high_power_of_large_values_stays_finite() -> None:
    student = torch.tensor([[[[1e3, 0.5e3]]]], requires_grad=True)
    loss = AttentionTransferLoss(power=16)(student, torch.ones(1, 1, 1, 2))
    assert loss.item() == pytest.approx(1 - math.sqrt(1 / 2), rel=1e-4)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_a_power_below_1_and_outputs_that_are_no_maps_are_refused() -> None:
    with pytest.raises(UserError, match=r"^power: 0.5 found, at least 1 expected$"):
        AttentionTransferLoss(power=0.5)
    with pytest.raises(ValueError, match=r"features \(2, 3\) and teacher features \(2, 3, 4, 4\) do not match: maps"):
        AttentionTransferLoss()(torch.zeros(2, 3), torch.zeros(2, 3, 4, 4))
