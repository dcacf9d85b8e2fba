import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses import CosineHiddenLoss, EmbeddingLoss, FeatureMapLoss


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_cosine_loss_is_one_minus_the_cosine_and_the_mean_over_the_batch() -> None:
    student = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0], [5.0, 5.0]])
    teacher = torch.tensor([[4.0, 3.0], [0.0, 7.0], [-1.0, 0.0], [0.1, 0.1]])
    # Cosines 24/25, 0, -1 and 1.
    assert CosineHiddenLoss()(student, teacher).item() == pytest.approx((1 / 25 + 1 + 2 + 0) / 4, abs=1e-6)


def test_every_k_neighbours_of_the_teacher_s_vector_are_averaged() -> None:
    student = torch.tensor([[1.0, 0.0]])
    teacher = torch.tensor([[1.0, 2.0, 6.0, -6.0, 1.0, 2.0]])  # in threes: 3 and -1
    assert CosineHiddenLoss()(student, teacher).item() == pytest.approx(1 - 3 / math.sqrt(10), abs=1e-6)


def test_so_are_the_student_s_where_its_vector_is_the_longer_one() -> None:
    student = torch.tensor([[1.0, 2.0, 6.0, -6.0, 1.0, 2.0]])
    teacher = torch.tensor([[1.0, 0.0]])
    assert CosineHiddenLoss()(student, teacher).item() == pytest.approx(1 - 3 / math.sqrt(10), abs=1e-6)


def test_the_cosine_loss_is_the_tutorial_s() -> None:
    student, teacher = features(8, 16, 8, 8, seed=1), features(8, 32, 8, 8, seed=2)
    pooled = F.avg_pool1d(torch.flatten(teacher, 1), 2)  # 2048 to 1024
    tutorial = nn.CosineEmbeddingLoss()(torch.flatten(student, 1), pooled, target=torch.ones(8))
    assert torch.equal(CosineHiddenLoss()(student, teacher), tutorial)


def test_a_student_whose_features_are_all_zero_has_a_finite_gradient() -> None:
    student = torch.zeros(2, 4, requires_grad=True)
    loss = CosineHiddenLoss()(student, features(2, 4))
    assert loss.item() == pytest.approx(1, abs=1e-6)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


@pytest.mark.parametrize("teacher", [(2, 9), (2, 4), (4, 6)])
def test_widths_that_are_no_multiple_and_other_batches_are_refused_with_both_shapes(teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="student features") as refusal:
        CosineHiddenLoss()(torch.zeros(2, 3, 2), torch.zeros(teacher))
    assert str(refusal.value) == (
        f"student features (2, 3, 2) and teacher features {teacher} do not match: as many images, and as many numbers "
        "for each or a multiple of the other's, expected"
    )


def test_the_map_loss_is_the_mean_squared_error_behind_the_regressor() -> None:
    loss = FeatureMapLoss(1, 2)
    with torch.no_grad():
        loss.regressor.weight.zero_()[:, 0, 1, 1] = torch.tensor([1.0, 2.0])  # the map itself, and twice the map
        loss.regressor.bias.copy_(torch.tensor([0.0, 1.0]))
    student = torch.tensor([[[[1.0, 2.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0]], [[3.0, 1.0]]]])
    # Predicted [1, 2] and [3, 5]: errors 0, 2, 0 and 4.
    assert loss(student, teacher).item() == pytest.approx((4 + 16) / 4)


def test_the_regressor_sees_a_window_of_three_and_zeros_around_the_map() -> None:
    loss = FeatureMapLoss(1, 1)
    with torch.no_grad():
        loss.regressor.weight.fill_(1)
        loss.regressor.bias.zero_()
    corner = torch.tensor([[[[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]]])  # ones in each window
    assert loss(torch.ones(1, 1, 3, 3), corner).item() == pytest.approx(0, abs=1e-10)


def test_the_map_loss_is_the_tutorial_s() -> None:
    student, teacher = features(8, 16, 8, 8, seed=1), features(8, 32, 8, 8, seed=2)
    loss = FeatureMapLoss(16, 32)
    regressor = nn.Conv2d(16, 32, kernel_size=3, padding=1)
    regressor.load_state_dict(loss.regressor.state_dict())
    assert torch.equal(loss(student, teacher), nn.MSELoss()(regressor(student), teacher))


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((2, 5, 4, 4), (2, 6, 4, 4)),
        ((2, 3, 4, 4), (2, 1, 4, 4)),
        ((2, 3, 4, 4), (2, 6, 1, 1)),
        ((2, 3, 4, 4), (1, 6, 4, 4)),
        ((2, 3, 4, 4), (6, 4, 4)),
        ((3, 4, 4), (6, 4, 4)),
        ((2, 3), (2, 6)),
    ],
)
def test_maps_that_would_not_match_or_be_broadcast_are_refused_with_both_shapes(
    student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="maps of 3 and 6 channels, equal in height and width, expected") as refusal:
        FeatureMapLoss(3, 6)(torch.zeros(student), torch.zeros(teacher))
    assert f"student features {student} and teacher features {teacher}" in str(refusal.value)


@pytest.mark.parametrize("loss", [CosineHiddenLoss(), FeatureMapLoss(4, 4)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_compared_in_float32(loss: nn.Module, dtype: torch.dtype) -> None:
    student, teacher = features(2, 4, 8, 8, seed=1).to(dtype), features(2, 4, 8, 8, seed=2).to(dtype)
    with torch.autocast("cpu", dtype):
        found = loss(student, teacher)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(loss(student.float(), teacher.float()).item(), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_left_before_anything_is_summed(dtype: torch.dtype) -> None:
    student, teacher = features(2, 4, 8, 8, seed=1).to(dtype), features(2, 4, 8, 8, seed=2).to(dtype)
    found = CosineHiddenLoss()(student, teacher)
    assert found.dtype == torch.float32
    assert torch.equal(found, CosineHiddenLoss()(student.float(), teacher.float()))


@pytest.mark.parametrize("loss", [CosineHiddenLoss(), FeatureMapLoss(4, 4)])
def test_double_precision_stays(loss: nn.Module) -> None:
    student, teacher = features(2, 4, 8, 8, seed=1).double(), features(2, 4, 8, 8, seed=2).double()
    assert loss.double()(student, teacher).dtype == torch.float64
    loss.float()


@pytest.mark.parametrize("loss", [CosineHiddenLoss(), FeatureMapLoss(4, 8)])
def test_the_gradient_reaches_student_and_regressor(loss: nn.Module) -> None:
    student = features(2, 4, 2, 2).requires_grad_()
    loss(student, features(2, 8, 2, 2, seed=1)).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in loss.parameters())
    assert len(list(loss.parameters())) == (2 if isinstance(loss, FeatureMapLoss) else 0)


@pytest.mark.parametrize("kind", ["vectors", "maps", "tokens"])
def test_an_embedding_is_predicted_by_a_projector(kind: str) -> None:
    loss = EmbeddingLoss(2, 3)
    with torch.no_grad():
        loss.projector.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        loss.projector.bias.zero_()
    student = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    teacher = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])  # cosines 1 and 0
    if kind == "maps":
        student = torch.stack([student + 1, student - 1], dim=2).unsqueeze(3)
    elif kind == "tokens":
        student, teacher = (torch.stack([it + 1, it - 1], dim=1) for it in (student, teacher))
    assert loss(student, teacher).item() == pytest.approx(0.5)
    assert loss(student, teacher.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(("student", "teacher"), [((2, 3), (2, 3)), ((2, 2), (2, 4)), ((2, 2), (3, 3)), ((2,), (2, 3))])
def test_an_embedding_of_another_width_is_refused(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="as many images, and widths of 2 and 3, expected"):
        EmbeddingLoss(2, 3)(torch.zeros(student), torch.zeros(teacher))
