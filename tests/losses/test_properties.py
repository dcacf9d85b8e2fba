"""What holds for all logits, temperatures, classes and batches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kd_lightning.losses import CosineHiddenLoss, FeatureMapLoss, soft_target_loss, soft_target_losses

batches, classes = st.integers(1, 6), st.integers(2, 12)
temperatures = st.integers(1, 1000).map(lambda number: number / 10)
"""Not hypothesis's own floats, which want numbers that the project has processors flush to 0."""
seeds = st.integers(0, 2**31)
sizes = st.sampled_from([1e-3, 1.0, 30.0, 1e4])
"""Of the largest logits."""


def logits(seed: int, batch: int, number: int, size: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, number, generator=generator, dtype=torch.float64) * 2 - 1) * size


@given(seeds, seeds, batches, classes, sizes, temperatures)
def test_the_soft_target_loss_is_finite_and_not_below_0(
    one: int, other: int, batch: int, number: int, size: float, temperature: float
) -> None:
    student = logits(one, batch, number, size).float().requires_grad_()
    loss = soft_target_loss(student, logits(other, batch, number, size).float(), temperature)
    loss.backward()
    assert loss.isfinite()
    assert loss >= 0
    assert student.grad is not None
    assert student.grad.isfinite().all()


@given(seeds, batches, classes, sizes, temperatures)
def test_it_is_0_with_no_slope_where_the_two_agree_but_for_a_shift(
    seed: int, batch: int, number: int, size: float, temperature: float
) -> None:
    teacher = logits(seed, batch, number, size)
    student = (teacher + 3.0).requires_grad_()
    loss = soft_target_loss(student, teacher, temperature)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-9 * temperature**2)
    torch.testing.assert_close(student.grad, torch.zeros_like(student), rtol=0, atol=1e-9 * max(1, temperature))


@given(seeds, seeds, batches, classes)
def test_at_high_temperatures_its_slope_does_not_depend_on_the_temperature(
    one: int, other: int, batch: int, number: int
) -> None:
    """Section 2.1 of Hinton et al.: it nears that of squared differences of logits about their means, over N."""
    teacher, slopes = logits(other, batch, number, 1.0), []
    for temperature in (100.0, 1000.0):
        student = logits(one, batch, number, 1.0).requires_grad_()
        soft_target_loss(student, teacher, temperature).backward()
        assert student.grad is not None
        slopes.append(student.grad)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0.1, atol=2e-2 / batch / number)
    difference = logits(one, batch, number, 1.0) - teacher
    expected = (difference - difference.mean(dim=1, keepdim=True)) / number / batch
    torch.testing.assert_close(slopes[1], expected, rtol=0.02, atol=2e-3 / batch / number)


@given(seeds, seeds, batches, classes, st.lists(temperatures, min_size=1, max_size=4))
def test_several_students_losses_are_each_one_s(
    one: int, other: int, batch: int, number: int, each: list[float]
) -> None:
    students = torch.stack([logits(one + place, batch, number, 5.0) for place in range(len(each))])
    teacher = logits(other, batch, number, 5.0)
    expected = torch.stack([soft_target_loss(s, teacher, t) for s, t in zip(students, each, strict=True)])
    found = soft_target_losses(students, teacher, torch.tensor(each, dtype=torch.float64))
    torch.testing.assert_close(found, expected)


@given(seeds, seeds, batches, st.integers(1, 8), st.integers(1, 4), temperatures)
def test_the_cosine_loss_lies_in_0_to_2_and_knows_directions_alone(
    one: int, other: int, batch: int, width: int, times: int, scale: float
) -> None:
    student, teacher = logits(one, batch, width, 3.0), logits(other, batch, width * times, 3.0)
    loss = CosineHiddenLoss()(student, teacher)
    assert -1e-9 <= loss <= 2 + 1e-9
    torch.testing.assert_close(CosineHiddenLoss()(student * scale, teacher), loss, rtol=1e-4, atol=1e-6)
    assert CosineHiddenLoss()(student, student) == pytest.approx(0, abs=1e-6)


@given(seeds, batches, st.integers(1, 3), st.integers(1, 3), st.integers(1, 5))
def test_the_map_loss_is_0_for_what_the_regressor_predicts(
    seed: int, batch: int, student_channels: int, teacher_channels: int, side: int
) -> None:
    loss = FeatureMapLoss(student_channels, teacher_channels).double()
    student = logits(seed, batch, student_channels * side**2, 2.0).view(batch, student_channels, side, side)
    teacher = loss.regressor(student).detach()
    assert loss(student, teacher) == 0
    assert loss(student, teacher + 2.0).item() == pytest.approx(4.0)
