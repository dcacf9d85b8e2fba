from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.teachers import FrozenTeacher


class Owner(nn.Module):
    """A student with a teacher that batch statistics, dropout or an optimizer would change if they could."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(4, 3)
        self.teacher = FrozenTeacher(
            nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        )


@pytest.fixture
def owner() -> Owner:
    torch.manual_seed(0)
    return Owner()


def state(teacher: FrozenTeacher) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in teacher.network.state_dict().items()}


def test_the_owner_neither_lists_nor_saves_the_teachers_weights(owner: Owner) -> None:
    assert [name for name, _ in owner.named_parameters()] == ["student.weight", "student.bias"]
    assert list(owner.state_dict()) == ["student.weight", "student.bias"]
    assert list(owner.buffers()) == []
    assert not any(module is owner.teacher.network for module in owner.modules())


def test_the_teacher_stays_in_eval_mode_when_its_owner_trains(owner: Owner) -> None:
    owner.train()
    assert owner.student.training
    assert not owner.teacher.training
    assert not any(module.training for module in owner.teacher.network.modules())


def test_a_teacher_that_someone_put_in_train_mode_is_back_in_eval_mode_with_its_owner(owner: Owner) -> None:
    owner.teacher.network.train()
    owner.train()
    assert not any(module.training for module in owner.teacher.network.modules())


def test_its_answers_do_not_depend_on_the_owners_mode(owner: Owner) -> None:
    x = torch.randn(16, 4)
    before = owner.eval().teacher(x)
    assert torch.equal(owner.train().teacher(x), before)
    torch.testing.assert_close(owner.teacher(x[:1]), before[:1])  # nor on the rest of the batch


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_follows_its_owner_to_a_precision(owner: Owner, dtype: torch.dtype) -> None:
    owner.to(dtype)
    tensors = [t for t in owner.teacher.network.state_dict().values() if t.is_floating_point()]
    assert {t.dtype for t in tensors} == {dtype}
    assert owner.teacher(torch.zeros(2, 4, dtype=dtype)).dtype == dtype


def test_it_follows_its_owner_to_a_device(owner: Owner) -> None:
    owner.to("meta")  # a device that every machine has
    assert {t.device.type for t in owner.teacher.network.state_dict().values()} == {"meta"}


def test_it_builds_no_graph_and_its_weights_want_no_gradient(owner: Owner) -> None:
    answer = owner.teacher(torch.zeros(2, 4, requires_grad=True))
    assert not answer.requires_grad
    assert not any(p.requires_grad for p in owner.teacher.network.parameters())


def test_training_the_owner_leaves_every_weight_and_statistic_of_the_teacher_as_it_was(owner: Owner) -> None:
    before, student = state(owner.teacher), owner.student.weight.clone()
    owner.train()
    optimizer = torch.optim.AdamW(owner.parameters(), lr=0.1, weight_decay=0.1)
    x = torch.randn(16, 4)
    F.mse_loss(owner.student(x), owner.teacher(x)).backward()  # the teacher's answer can be saved for backward
    optimizer.step()
    assert not torch.equal(owner.student.weight, student)
    after = owner.teacher.network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_deep_copy_has_a_teacher_of_its_own_with_the_same_weights(owner: Owner) -> None:
    copy, x = deepcopy(owner), torch.randn(3, 4)
    assert copy.teacher.network is not owner.teacher.network
    assert torch.equal(copy.teacher(x), owner.teacher(x))
    copy.to(torch.float64)
    assert owner.teacher(x).dtype == torch.float32
