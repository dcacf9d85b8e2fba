import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.cli import lightning
from kd_lightning.losses import soft_target_loss
from kd_lightning.losses.logits import soft_target_losses

CONFIGS = Path(__file__).parents[2] / "configs"


def logits(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient(loss: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(loss, student)[0]


def test_the_loss_is_the_divergence_of_the_student_from_the_teacher() -> None:
    student, teacher = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.0, 0.0]])
    # p = 1/2, 1/2 and q = 1/4, 3/4.
    forth = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert soft_target_loss(student, teacher, 1.0).item() == pytest.approx(forth, abs=1e-7)
    back = 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)
    assert soft_target_loss(teacher, student, 1.0).item() == pytest.approx(back, abs=1e-7)


def test_the_temperature_divides_the_logits_and_its_square_multiplies_the_loss() -> None:
    student, teacher = torch.tensor([[0.0, 2 * math.log(3)]]), torch.tensor([[0.0, 0.0]])
    assert soft_target_loss(student, teacher, 2.0).item() == pytest.approx(4 * 0.5 * math.log(4 / 3), abs=1e-6)


def test_the_loss_is_the_mean_over_the_batch() -> None:
    student, teacher = torch.tensor([[0.0, math.log(3)], [1.0, 1.0]]), torch.zeros(2, 2)
    assert soft_target_loss(student, teacher, 1.0).item() == pytest.approx(0.25 * math.log(4 / 3), abs=1e-7)


@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
def test_averaging_over_the_classes_too_would_be_smaller_by_their_number() -> None:
    student, teacher = logits(4, 10, seed=1), logits(4, 10, seed=2)
    student_log, teacher_log = (F.log_softmax(x / 2, dim=-1) for x in (student, teacher))
    over_classes_too = 4 * F.kl_div(student_log, teacher_log, reduction="mean", log_target=True)
    torch.testing.assert_close(soft_target_loss(student, teacher, 2.0), 10 * over_classes_too)


def test_where_student_and_teacher_agree_the_loss_and_its_gradient_are_zero() -> None:
    teacher = logits(4, 10)
    student = (teacher + 7.5).requires_grad_()  # softmax does not see the difference
    loss = soft_target_loss(student, teacher, 3.0)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient(loss, student).abs().max() < 1e-12


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_the_loss_is_above_zero_where_they_differ(temperature: float) -> None:
    for seed in range(20):
        assert soft_target_loss(logits(1, 5, seed=seed), logits(1, 5, seed=100 + seed), temperature) > 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be above 0, not {temperature}"):
        soft_target_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature)


def test_logits_of_different_shapes_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"student logits \(2, 3\) and teacher logits \(1, 3\) differ"):
        soft_target_loss(torch.zeros(2, 3), torch.zeros(1, 3), 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = logits(8, 10, seed=1).to(dtype), logits(8, 10, seed=2).to(dtype)
    loss = soft_target_loss(student, teacher, 20.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, soft_target_loss(student.float(), teacher.float(), 20.0))
    exact = soft_target_loss(student.double(), teacher.double(), 20.0)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4)


def test_float64_logits_stay_float64() -> None:
    assert soft_target_loss(logits(2, 3), logits(2, 3, seed=1), 2.0).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_several_students_have_the_loss_that_each_has_alone(dtype: torch.dtype) -> None:
    students, teacher = logits(3, 8, 10, seed=1).to(dtype), logits(8, 10, seed=2).to(dtype)
    temperatures = [1.0, 2.5, 20.0]
    found = soft_target_losses(students, teacher, torch.tensor(temperatures, dtype=torch.float64))
    alone = [soft_target_loss(student, teacher, t) for student, t in zip(students, temperatures, strict=True)]
    torch.testing.assert_close(found, torch.stack(alone))  # of the same type, too


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_the_most_confident_logits_give_a_finite_loss_and_gradient(dtype: torch.dtype, temperature: float) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 0.0]], dtype=dtype)
    loss = soft_target_loss(student, teacher, temperature)
    size = 1e4 if dtype != torch.bfloat16 else 9984  # as bfloat16 rounds it
    assert loss.item() == pytest.approx(temperature * 2 * size / 2, rel=1e-5)  # one of two images is all wrong
    assert torch.isfinite(gradient(loss, student)).all()


def test_at_high_temperatures_the_gradient_hardly_depends_on_the_temperature() -> None:
    student, teacher = logits(8, 10, seed=1).requires_grad_(), logits(8, 10, seed=2)
    norms = [gradient(soft_target_loss(student, teacher, t), student).norm() for t in (50.0, 500.0)]
    assert (norms[0] / norms[1]).item() == pytest.approx(1, abs=0.1)  # 100 without the square


# The published formulas, written as their sources write them (s, t: logits of student and teacher).


def course_notebook(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    return 0.2 * F.cross_entropy(s, label) + 0.8 * F.cross_entropy(s / 3, F.softmax(t / 3, dim=1))


def hinton_reproduction(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    divergence = torch.nn.KLDivLoss()(F.log_softmax(s / 20, dim=1), F.softmax(t / 20, dim=1))
    return 0.7 * 20 * 20 * divergence + 0.3 * F.cross_entropy(s, label)


def pytorch_tutorial(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    soft_targets, soft_prob = F.softmax(t / 2, dim=-1), F.log_softmax(s / 2, dim=-1)
    soft = torch.sum(soft_targets * (soft_targets.log() - soft_prob)) / soft_prob.size()[0] * (2**2)
    return 0.25 * soft + 0.75 * F.cross_entropy(s, label)


def densenet_tutorial(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    divergence = torch.nn.KLDivLoss()(F.log_softmax(s / 5, dim=1), F.softmax(t / 5, dim=1))
    return divergence * (0.5 * 5 * 5) + F.cross_entropy(s, label) * (1.0 - 0.5)


def labml(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    divergence = torch.nn.KLDivLoss(reduction="mean")(F.log_softmax(s / 5, dim=-1), F.softmax(t / 5, dim=-1))
    return 100 * divergence + 0.5 * F.cross_entropy(s, label)


@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
@pytest.mark.parametrize(
    ("published", "config", "classes", "temperature", "hard_weight", "soft_weight"),
    [
        (course_notebook, "mnist_transfer/distill", 10, 3.0, 0.2, 0.8 / 9),
        (hinton_reproduction, "mnist_hinton/distill_published", 10, 20.0, 0.3, 0.07),
        (pytorch_tutorial, "cifar10_tutorial/distill", 10, 2.0, 0.75, 0.25),
        (densenet_tutorial, "cifar10_densenet/distill", 10, 5.0, 0.5, 0.05),
        (densenet_tutorial, "dogs_vs_cats/distill", 2, 5.0, 0.5, 0.25),
        (labml, "cifar10_vgg/distill_published", 10, 5.0, 0.5, 0.4),
    ],
)
def test_each_published_formula_is_a_choice_of_our_weights_and_its_recipe_makes_it(
    published: Any, config: str, classes: int, temperature: float, hard_weight: float, soft_weight: float
) -> None:
    chosen = lightning.parse(["fit", f"--config={CONFIGS / config}.yaml"])["model"]["init_args"]
    assert chosen["temperature"] == temperature
    assert (chosen["hard_weight"], chosen["soft_weight"]) == pytest.approx((hard_weight, soft_weight), rel=1e-6)
    student, teacher = logits(32, classes, seed=1).requires_grad_(), logits(32, classes, seed=2)
    label = torch.randint(classes, (32,), generator=torch.Generator().manual_seed(3))
    ours = hard_weight * F.cross_entropy(student, label) + soft_weight * soft_target_loss(student, teacher, temperature)
    theirs = published(student, teacher, label)
    torch.testing.assert_close(gradient(ours, student), gradient(theirs, student), rtol=1e-10, atol=1e-14)
