"""The losses on logits beside KD: their formulas by hand, and what holds for all of them in every precision."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kd_lightning.errors import UserError
from kd_lightning.losses import (
    DISTLoss,
    DKDLoss,
    NKDLoss,
    jensen_shannon_loss,
    logit_mse_loss,
    reverse_kl_loss,
    soft_target_loss,
    standardised,
    ttm_loss,
    wttm_loss,
)

Loss = Callable[[Tensor, Tensor, float, Tensor], Tensor]

LOSSES: dict[str, Loss] = {
    "KD": lambda student, teacher, temperature, label: soft_target_loss(student, teacher, temperature),
    "KD + LS": lambda student, teacher, temperature, label: soft_target_loss(
        standardised(student), standardised(teacher), temperature
    ),
    "reverse KL": lambda student, teacher, temperature, label: reverse_kl_loss(student, teacher, temperature),
    "JS": lambda student, teacher, temperature, label: jensen_shannon_loss(student, teacher, temperature),
    "MSE": lambda student, teacher, temperature, label: logit_mse_loss(student, teacher),
    "TTM": lambda student, teacher, temperature, label: ttm_loss(student, teacher, temperature),
    "WTTM": lambda student, teacher, temperature, label: wttm_loss(student, teacher, temperature),
    "DKD": DKDLoss(),
    "NKD": NKDLoss(),
    "DIST": lambda student, teacher, temperature, label: DISTLoss()(student, teacher, temperature),
}
AGREEING_ZERO = sorted(LOSSES.keys() - {"NKD", "TTM", "WTTM"})
"""Losses that are 0 where the logits agree, at every temperature."""

log = math.log


def of(*rows: list[float]) -> Tensor:
    """Return logits with these odds."""
    return torch.tensor(rows, dtype=torch.float64).log()


def close(loss: Tensor, expected: float) -> None:
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_divergences_of_one_image_by_hand() -> None:
    student, teacher = of([1, 3]), of([1, 1])  # q = 1/4, 3/4 and p = 1/2, 1/2
    close(reverse_kl_loss(student, teacher, 1.0), log(1 / 2) / 4 + 3 * log(3 / 2) / 4)
    to_middle = log(2 / 3) / 4 + 3 * log(6 / 5) / 4, log(4 / 3) / 2 + log(4 / 5) / 2  # m = 3/8, 5/8
    close(jensen_shannon_loss(student, teacher, 1.0), sum(to_middle) / 2)
    close(logit_mse_loss(student, teacher), log(3) ** 2 / 2)
    softer = of([1, 9])  # at T = 2 the same q
    close(reverse_kl_loss(softer, teacher, 2.0), 4 * (log(1 / 2) / 4 + 3 * log(3 / 2) / 4))
    close(jensen_shannon_loss(softer, teacher, 2.0), 4 * sum(to_middle) / 2)


def test_transformed_teacher_matching_softens_the_teacher_alone() -> None:
    student, teacher = of([1, 1]), of([1, 9])  # the teacher at T = 2: 1/4, 3/4
    divergence = log(1 / 2) / 4 + 3 * log(3 / 2) / 4
    close(ttm_loss(student, teacher, 2.0), divergence)
    weight = math.sqrt(0.1) + math.sqrt(0.9)
    close(wttm_loss(student, teacher, 2.0), weight * divergence)
    close(wttm_loss(of([1, 1], [1, 9]), of([1, 9], [1, 9]), 1.0), ttm_loss(of([1, 1]), teacher, 1.0).item() / 2)


def test_decoupled_losses_by_hand() -> None:
    student, teacher = of([1, 1, 2]), of([2, 1, 1])  # q = 1/4, 1/4, 1/2 and p = 1/2, 1/4, 1/4
    label = torch.tensor([0])
    own, others = log(2) / 2 + log(2 / 3) / 2, log(3 / 2) / 2 + log(3 / 4) / 2
    close(DKDLoss(alpha=1.0, beta=0.0)(student, teacher, 1.0, label), own)
    close(DKDLoss(alpha=0.0, beta=2.0)(student, teacher, 1.0, label), 2 * others)
    close(DKDLoss(alpha=3.0, beta=8.0)(2 * student, 2 * teacher, 2.0, label), 4 * (3 * own + 8 * others))
    crossed = -(log(1 / 3) / 2 + log(2 / 3) / 2)
    close(NKDLoss(gamma=0.0)(student, teacher, 1.0, label), -log(1 / 4) / 2)
    close(NKDLoss(gamma=1.5)(student, teacher, 1.0, label), -log(1 / 4) / 2 + 1.5 * crossed)
    doubled = -log(1 / 6) * 4 / 6  # the part of the image's class is not softened
    close(NKDLoss(gamma=1.0)(2 * student, 2 * teacher, 2.0, label), doubled + 4 * crossed)


def test_kd_is_the_decoupled_loss_with_the_teachers_doubt_as_the_weight_of_the_others() -> None:
    student, teacher, label = of([1, 1, 2]), of([2, 1, 1]), torch.tensor([0])
    close(
        DKDLoss(alpha=1.0, beta=1 - 0.5)(student, teacher, 1.0, label), soft_target_loss(student, teacher, 1.0).item()
    )


def test_correlations_by_hand() -> None:
    student = of([1, 3], [1, 1], [3, 1])  # of the first class: 1/4, 1/2, 3/4
    teacher = of([1, 3], [3, 1], [1, 1])  # 1/4, 3/4, 1/2: a correlation of 1/2 with it
    assert DISTLoss(inter=0.0)(student, teacher, 1.0).item() == pytest.approx(1 / 2, rel=1e-6)
    # Of an image's classes: 1, 0 and 0, as a constant is correlated with nothing.
    assert DISTLoss(intra=0.0)(student, teacher, 1.0).item() == pytest.approx(2 / 3, rel=1e-6)
    assert DISTLoss(2.0, 4.0)(3 * student, 3 * teacher, 3.0).item() == pytest.approx(9 * (4 / 3 + 2), rel=1e-6)


def test_standardised_logits_have_mean_0_and_deviation_1() -> None:
    torch.testing.assert_close(standardised(torch.tensor([[1.0, 2.0, 3.0]])), torch.tensor([[-1.0, 0.0, 1.0]]))
    masked = standardised(torch.tensor([[1.0, 3.0, -math.inf]]))
    torch.testing.assert_close(masked, torch.tensor([[-math.sqrt(0.5), math.sqrt(0.5), -math.inf]]))
    assert standardised(torch.full((2, 3), 5.0)).tolist() == [[0.0] * 3] * 2
    assert standardised(torch.zeros(1, 3, dtype=torch.bfloat16)).dtype == torch.float32


def logits(batch: int, classes: int, scale: float, seed: int) -> Tensor:
    """Return float32 logits that bfloat16 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(batch, classes, generator=generator)).bfloat16().float()


def value_and_gradient(loss: Loss, student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = loss(student, teacher, temperature, torch.arange(len(student)) % student.shape[1])
    (gradient,) = torch.autograd.grad(value, student)
    return value, gradient


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("classes", "scale"), [(2, 3.0), (10, 3.0), (100, 10.0)])
def test_values_and_gradients_are_those_of_float64(name: str, classes: int, scale: float) -> None:
    for seed, temperature in enumerate((1.0, 4.0)):
        student, teacher = (logits(16, classes, scale, 2 * seed + it) for it in (0, 1))
        reference, slope = value_and_gradient(LOSSES[name], student.double(), teacher.double(), temperature)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-3), (torch.float16, 1e-3)):
            given = student.to(dtype), teacher.to(dtype)
            exact = [it.double() for it in given]
            expected, expected_slope = value_and_gradient(LOSSES[name], exact[0], exact[1], temperature)
            value, gradient = value_and_gradient(LOSSES[name], *given, temperature)
            assert value.dtype == torch.float32
            assert gradient.dtype == dtype
            rounded = expected_slope.to(dtype).double()
            # Two standardised logits are +-0.7 whatever they were, with a slope of 0.
            floor = 1e-5 if (name, classes) == ("KD + LS", 2) else 1e-6 * float(torch.linalg.vector_norm(slope))
            assert abs(value.item() - expected.item()) <= tolerance * abs(expected.item()) + 1e-7 * reference.item()
            error = torch.linalg.vector_norm(gradient.double() - rounded)
            assert error <= tolerance * torch.linalg.vector_norm(rounded) + floor


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nothing_is_infinite_nor_below_0(name: str, dtype: torch.dtype) -> None:
    for seed, (batch, classes, scale) in enumerate(
        [(1, 2, 1.0), (1, 10, 1e3), (4, 2, 1e3), (4, 10, 1e-3), (3, 5, 0.0)]
    ):
        student, teacher = (logits(batch, classes, scale, 2 * seed + it).to(dtype) for it in (0, 1))
        for temperature in (0.5, 1.0, 20.0):
            for other in (teacher, student):  # the same logits too
                value, gradient = value_and_gradient(LOSSES[name], student, other, temperature)
                assert 0 <= value < math.inf, (batch, classes, scale, temperature)
                assert gradient.isfinite().all(), (batch, classes, scale, temperature)


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_that_the_teacher_masks_is_no_nan(name: str) -> None:
    student, teacher = logits(6, 5, 3.0, 0).double(), logits(6, 5, 3.0, 1).double()
    teacher[:, 4] = teacher[2, 1] = -math.inf  # 4 is no image's class but one's
    lower = teacher.clamp(min=-1e4)  # a probability of 0 too
    for temperature in (1.0, 4.0):
        value, gradient = value_and_gradient(LOSSES[name], student, teacher, temperature)
        assert value.isfinite()
        assert gradient.isfinite().all()
        if name in ("KD", "JS", "TTM", "WTTM", "DKD", "NKD", "DIST"):
            expected, slope = value_and_gradient(LOSSES[name], student, lower, temperature)
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(gradient, slope)


@pytest.mark.parametrize("name", ["reverse KL", "MSE", "KD + LS"])
def test_what_compares_with_a_masked_class_leaves_it_out(name: str) -> None:
    student, teacher = logits(6, 5, 3.0, 0).double(), logits(6, 5, 3.0, 1).double()
    without = value_and_gradient(LOSSES[name], student[:, :4], teacher[:, :4], 2.0)
    teacher[:, 4] = -math.inf
    if name == "KD + LS":
        student[:, 4] = -math.inf
    value, gradient = value_and_gradient(LOSSES[name], student, teacher, 2.0)
    torch.testing.assert_close(value, without[0])
    torch.testing.assert_close(gradient[:, :4], without[1])
    assert not gradient[:, 4].any()


@pytest.mark.parametrize("name", AGREEING_ZERO)
def test_where_the_logits_agree_the_loss_is_0(name: str) -> None:
    student = logits(6, 5, 3.0, 0).double()
    value, gradient = value_and_gradient(LOSSES[name], student, student, 4.0)
    assert value.item() == pytest.approx(0, abs=1e-4 if name == "DIST" else 1e-6)  # its correlations have a floor
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_another_shape_and_a_temperature_of_0_are_refused(name: str) -> None:
    label = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"student logits \(2, 3\) and teacher logits \(2, 4\) differ"):
        LOSSES[name](torch.zeros(2, 3), torch.zeros(2, 4), 1.0, label)
    if name != "MSE":
        with pytest.raises(ValueError, match="temperature must be above 0, not 0"):
            LOSSES[name](torch.zeros(2, 3), torch.zeros(2, 3), 0.0, label)


@pytest.mark.parametrize("build", [lambda: DKDLoss(alpha=-1.0), lambda: NKDLoss(gamma=-1.0), lambda: DISTLoss(-1.0)])
def test_a_factor_below_0_is_refused(build: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=r"-1.0 found, a number of at least 0 expected"):
        build()
