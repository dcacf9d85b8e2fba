"""What holds for every loss on layers: exact against float64, finite for any input, never negative, shapes checked."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses import (
    AttentionTransferLoss,
    CRDLoss,
    PKTLoss,
    ReviewKDLoss,
    RKDAngleLoss,
    RKDDistanceLoss,
    SimilarityPreservingLoss,
)
from kd_lightning.utils.precision import at_least_float32

IMAGES = 6
LABEL = torch.arange(20) % 3


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def contrast() -> CRDLoss:
    torch.manual_seed(0)
    loss = CRDLoss(8, 12, width=5, negatives=4)
    loss.prepare(SimpleNamespace(train_label=LABEL))
    return loss


def review() -> ReviewKDLoss:
    torch.manual_seed(0)
    return ReviewKDLoss([3, 4], [5, 6])


VECTORS = ((8,), (12,))
MAPS = ((3, 4, 4), (5, 6, 6))
LOSSES = {
    "attention": (AttentionTransferLoss, *MAPS),
    "similarity": (SimilarityPreservingLoss, *MAPS),
    "distance": (RKDDistanceLoss, *VECTORS),
    "angle": (RKDAngleLoss, *VECTORS),
    "pkt": (PKTLoss, *VECTORS),
    "crd": (contrast, *VECTORS),
    "review": (review, *MAPS),
}
RELATIONS = ("similarity", "distance", "angle", "pkt")


def compute(name: str, loss: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """Call a loss as training does; knowledge review gets pooled features as its second layer."""
    if name == "review":
        wide = [F.pad(at_least_float32(each.detach()).mean(dim=(2, 3)), (0, 1)) for each in (student, teacher)]
        value: Tensor = loss([student, wide[0]], [teacher, wide[1]])
    elif name == "crd":
        torch.manual_seed(1)
        index = torch.arange(len(student))
        value = loss(student, teacher, index=index, label=LABEL[index])
    else:
        value = loss(student, teacher)
    return value


def value_and_gradient(name: str, loss: nn.Module, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = compute(name, loss, student, teacher)
    return value.detach(), torch.autograd.grad(value, student)[0]


def attention_by_hand(student: Tensor, teacher: Tensor) -> Tensor:
    teacher = F.adaptive_avg_pool2d(teacher, 4)
    maps = [(each**2).sum(dim=1).flatten(1) for each in (student, teacher)]
    ours, theirs = (each / each.norm(dim=1, keepdim=True) for each in maps)
    return ((ours - theirs) ** 2).mean()


def similarity_by_hand(student: Tensor, teacher: Tensor) -> Tensor:
    grams = [torch.einsum("ix,jx->ij", each.flatten(1), each.flatten(1)) for each in (student, teacher)]
    ours, theirs = (each / each.norm(dim=1, keepdim=True) for each in grams)
    return ((ours - theirs) ** 2).sum() / IMAGES**2


def huber(difference: Tensor) -> Tensor:
    return torch.where(difference.abs() < 1, difference**2 / 2, difference.abs() - 0.5)


def distance_by_hand(student: Tensor, teacher: Tensor) -> Tensor:
    relative = []
    for each in (student, teacher):
        distance = {(i, j): (each[i] - each[j]).norm() for i in range(IMAGES) for j in range(IMAGES) if i != j}
        mean = torch.stack([*distance.values()]).mean()
        relative.append(torch.stack([*distance.values()]) / mean)
    return huber(relative[0] - relative[1]).sum() / IMAGES**2


def angle_by_hand(student: Tensor, teacher: Tensor) -> Tensor:
    total = student.new_zeros(())
    for i in range(IMAGES):
        for j in range(IMAGES):
            for k in range(IMAGES):
                if i not in (j, k):
                    cosines = [F.cosine_similarity(x[j] - x[i], x[k] - x[i], dim=0) for x in (student, teacher)]
                    total = total + huber(cosines[0] - cosines[1])
    return total / IMAGES**3


def pkt_by_hand(student: Tensor, teacher: Tensor) -> Tensor:
    kernels = [(1 + F.cosine_similarity(each[:, None], each[None], dim=2)) / 2 for each in (student, teacher)]
    ours, theirs = (each / each.sum(dim=1, keepdim=True) for each in kernels)
    return (theirs * ((theirs + 1e-7) / (ours + 1e-7)).log()).mean()


BY_HAND: dict[str, Any] = {
    "attention": attention_by_hand,
    "similarity": similarity_by_hand,
    "distance": distance_by_hand,
    "angle": angle_by_hand,
    "pkt": pkt_by_hand,
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-3)])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_float64(name: str, dtype: torch.dtype, tolerance: float) -> None:
    make, ours, theirs = LOSSES[name]
    student, teacher = draws(IMAGES, *ours, seed=1).to(dtype), draws(IMAGES, *theirs, seed=2).to(dtype)
    value, gradient = value_and_gradient(name, make(), student, teacher)
    exact = student.double().requires_grad_()
    reference = BY_HAND.get(name) or (lambda *features: compute(name, make().double(), *features))
    expected = reference(exact, teacher.double())
    assert value.dtype == torch.float32
    assert abs(value.item() - expected.item()) <= tolerance * expected.item()
    exact_gradient = torch.autograd.grad(expected, exact)[0].to(dtype).double()  # that of bf16 features is in bf16
    assert (gradient.double() - exact_gradient).norm() <= tolerance * exact_gradient.norm()


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_does_not_reach_what_is_summed(name: str) -> None:
    make, ours, theirs = LOSSES[name]
    student, teacher = draws(IMAGES, *ours, seed=1), draws(IMAGES, *theirs, seed=2)
    expected = compute(name, make(), student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        found = compute(name, make(), student, teacher)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(
        expected.item(), rel=2e-2 if name == "review" else 1e-6
    )  # convolutions are in bf16


@pytest.mark.parametrize("name", LOSSES)
def test_double_precision_stays(name: str) -> None:
    make, ours, theirs = LOSSES[name]
    found = compute(name, make().double(), draws(IMAGES, *ours).double(), draws(IMAGES, *theirs).double())
    assert found.dtype == torch.float64


def features(kind: str, *shape: int, seed: int) -> Tensor:
    if kind == "batch of one":
        return draws(1, *shape, seed=seed)
    if kind == "equal images":
        return draws(1, *shape, seed=seed).expand(IMAGES, *shape)
    if kind == "some equal images":
        return draws(3, *shape, seed=seed).repeat(2, *[1] * len(shape))
    if kind == "zeros":
        return torch.zeros(IMAGES, *shape)
    if kind == "one image of zeros":
        return torch.cat([torch.zeros(1, *shape), draws(IMAGES - 1, *shape, seed=seed)])
    if kind == "opposite images":
        return torch.cat([draws(3, *shape, seed=seed), -draws(3, *shape, seed=seed)])
    sizes = {"up to 1e3, bf16": (1e3, torch.bfloat16), "up to 1e3, fp16": (1e3, torch.float16), "tiny": (1e-9, None)}
    size, dtype = sizes[kind]
    return draws(IMAGES, *shape, seed=seed).clamp(-1, 1).mul(size).to(dtype)


KINDS = ("batch of one", "equal images", "some equal images", "zeros", "one image of zeros", "opposite images", "tiny")


@pytest.mark.parametrize("kind", [*KINDS, "up to 1e3, bf16", "up to 1e3, fp16"])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_finite_and_never_negative(name: str, kind: str) -> None:
    make, ours, theirs = LOSSES[name]
    student, random = features(kind, *ours, seed=1), features(kind, *theirs, seed=2)
    for teacher in (random, draws(len(student), *theirs, seed=3)):
        value, gradient = value_and_gradient(name, make(), student, teacher)
        assert value.isfinite()
        assert value >= 0
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e3 or kind == "tiny"


@pytest.mark.parametrize("name", RELATIONS)
def test_a_batch_of_one_has_no_relations(name: str) -> None:
    loss = LOSSES[name][0]()
    value, gradient = value_and_gradient(name, loss, draws(1, 8, seed=1), draws(1, 12, seed=2))
    assert value == pytest.approx(0, abs=1e-12)
    assert gradient == pytest.approx(torch.zeros(1, 8), abs=1e-6)


@pytest.mark.parametrize("name", ["attention", *RELATIONS])
def test_equal_features_have_no_loss_and_a_finite_gradient(name: str) -> None:
    make, _, theirs = LOSSES[name]
    value, gradient = value_and_gradient(name, make(), draws(IMAGES, *theirs), draws(IMAGES, *theirs))
    assert value == 0
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("name", RELATIONS)
def test_any_shape_is_flattened_and_layers_are_added(name: str) -> None:
    loss = LOSSES[name][0]()
    student, teacher = draws(IMAGES, 2, 3, 4), draws(IMAGES, 5, 2)
    value = loss(student, teacher)
    assert value == loss(student.flatten(1), teacher.flatten(1))
    other = loss(teacher, student)
    assert loss([student, teacher], [teacher, student]).item() == pytest.approx((value + other).item())


@pytest.mark.parametrize("name", ["attention", *RELATIONS])
@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (
            [(2, 3, 4, 4)],
            [(3, 3, 4, 4)],
            "student features (2, 3, 4, 4) and teacher features (3, 3, 4, 4) do not match",
        ),
        (
            [(2, 3, 4, 4), (2, 3, 4, 4)],
            [(2, 3, 4, 4)],
            "student features [(2, 3, 4, 4), (2, 3, 4, 4)] and teacher features [(2, 3, 4, 4)] do not match: as many",
        ),
        ([], [], "student features [] and teacher features [] do not match: as many layers, at least one, expected"),
    ],
)
def test_other_numbers_of_images_or_layers_are_refused_with_both_shapes(
    name: str, student: list[tuple[int, ...]], teacher: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ValueError, match="do not match") as refusal:
        LOSSES[name][0]()([torch.zeros(shape) for shape in student], [torch.zeros(shape) for shape in teacher])
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
