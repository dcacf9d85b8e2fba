import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from kd_lightning.data import DigitsDataModule
from kd_lightning.errors import UserError
from kd_lightning.losses import CRDLoss


def data(*label: int, **attributes: object) -> SimpleNamespace:
    return SimpleNamespace(train_label=torch.tensor(label), **attributes)


def plain() -> CRDLoss:
    """A loss of two images and one negative that takes features as they are, at a temperature of 1."""
    loss = CRDLoss(2, 2, width=2, negatives=1, temperature=1.0).double()
    for projection in (loss.student_projection, loss.teacher_projection):
        nn.init.eye_(projection.weight)
        nn.init.zeros_(projection.bias)
    loss.prepare(data(0, 1))
    loss.student_memory.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    loss.teacher_memory.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    return loss


FIRST = torch.tensor([0])


def call(loss: CRDLoss, student: list[list[float]], teacher: list[list[float]]) -> Tensor:
    index = FIRST if len(student) == 1 else torch.arange(len(student))
    value: Tensor = loss(torch.tensor(student).double(), torch.tensor(teacher).double(), index=index, label=index)
    return value


def test_the_loss_is_that_of_noise_contrastive_estimation() -> None:
    loss, e = plain(), math.e
    # Student (1, 0): products 0 with its own image in the teacher's bank, 1 with the other. Teacher (0, 1): 1 and 0.
    # Z is 2 · (1 + e) / 2 in each bank, K / N = 1/2, and P / (P + 1/2) or (1/2) / (P + 1/2) with P = 1 / Z or e / Z.
    own, other = 2 / (3 + e), (1 + e) / (1 + 3 * e)
    expected = -math.log(own) - math.log(other) - math.log(2 * e / (1 + 3 * e)) - math.log((1 + e) / (3 + e))
    assert call(loss, [[2.0, 0.0]], [[0.0, 3.0]]).item() == pytest.approx(expected)
    assert loss.log_normaliser.exp().tolist() == pytest.approx([1 + e, 1 + e])


def test_the_banks_move_towards_the_batch_and_the_normaliser_stays() -> None:
    loss = plain()
    loss.momentum = 0.25
    call(loss, [[2.0, 0.0]], [[0.0, 3.0]])
    moved = torch.tensor([0.75, 0.25]) / math.sqrt(0.75**2 + 0.25**2)
    assert loss.student_memory.tolist() == [pytest.approx(moved.tolist()), [1.0, 0.0]]
    assert loss.teacher_memory.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    before = loss.log_normaliser.clone()
    call(loss, [[0.0, 2.0]], [[3.0, 3.0]])
    assert torch.equal(loss.log_normaliser, before)


def test_evaluation_remembers_nothing() -> None:
    loss = plain().eval()
    before = copy.deepcopy(loss.state_dict())
    value = call(loss, [[2.0, 0.0]], [[0.0, 3.0]])
    assert all(torch.equal(tensor, before[name]) for name, tensor in loss.state_dict().items())
    assert value == call(loss.train(), [[2.0, 0.0]], [[0.0, 3.0]])


def test_negatives_are_drawn_from_other_classes_without_replacement_where_there_are_as_many() -> None:
    label = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
    batch = torch.tensor([0, 2])
    for negatives, distinct in ((5, True), (6, False), (50, False)):
        loss = CRDLoss(2, 2, negatives=negatives)
        loss.prepare(SimpleNamespace(train_label=label))
        drawn = loss._draw(label[batch].unsqueeze(1) != loss.row_label)
        assert drawn.shape == (2, negatives)
        assert (label[drawn] != label[batch].unsqueeze(1)).all()
        assert (len(drawn[1].unique()) == negatives) == distinct


def test_the_defaults_are_those_of_the_source() -> None:
    loss = CRDLoss(3, 4)
    assert (loss.negatives, loss.temperature, loss.momentum) == (16384, 0.07, 0.5)
    assert loss.student_projection.out_features == loss.teacher_projection.out_features == 128
    loss.prepare(data(0, 1))
    bound = math.sqrt(3 / 128)
    assert 0.9 * bound < loss.student_memory.abs().max() <= bound


def test_images_that_are_held_out_are_no_negatives() -> None:
    digits = DigitsDataModule(train_size=50, val_size=100, omit_classes=[3])
    digits.setup("fit")
    loss = CRDLoss(3, 3, negatives=2)
    loss.prepare(digits)
    trained = loss.row_label >= 0
    assert trained.nonzero().flatten().tolist() == sorted(digits.train_positions.tolist())
    batch = digits.make_batch(digits.train_positions)
    assert torch.equal(loss.row_label[batch.index], batch.label)
    assert loss._images == len(digits.train_positions)
    drawn = loss._draw((batch.label.unsqueeze(1) != loss.row_label) & trained)
    assert trained[drawn].all()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            SimpleNamespace(),
            r"CRDLoss: SimpleNamespace found, whose number of images and labels are not known, data with",
        ),
        (data(), "CRDLoss: training images of one class found, at least two"),
        (data(1, 1), "CRDLoss: training images of one class found, at least two"),
        (data(1, -1, 0, -1), "CRDLoss: 2 unlabelled training images found, a label for each expected"),
        (None, "CRDLoss: NoneType found, whose number of images"),
    ],
)
def test_data_that_a_memory_cannot_be_made_for_is_refused(found: object, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}") as refusal:
        CRDLoss(3, 3).prepare(found)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": 0}, "negatives: 0 found, at least 1 expected"),
        ({"temperature": 0.0}, "temperature: 0.0 found, a number above 0 expected"),
        ({"momentum": 1.0}, "momentum: 1.0 found, a number from 0 to below 1 expected"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        CRDLoss(3, 3, **options)  # type: ignore[arg-type]


def steps(loss: CRDLoss, first: int, last: int) -> list[float]:
    """Train a few steps as a module does: batches by number, draws from the global generator."""
    values = []
    for step in range(first, last):
        features = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
        index = torch.tensor([step, step + 1, step + 2])
        value = loss(features, features, index=index, label=index % 3)
        value.backward()
        values.append(value.item())
    return values


def test_the_state_loads_where_nothing_is_prepared_and_training_goes_on_exactly() -> None:
    torch.manual_seed(0)
    trained = CRDLoss(4, 4, width=3, negatives=5)
    trained.prepare(data(*[0, 1, 2] * 4))
    steps(trained, 0, 3)
    saved, draws = copy.deepcopy(trained.state_dict()), torch.get_rng_state()
    expected = steps(trained, 3, 6)
    for prepared_before in (False, True):
        resumed = CRDLoss(4, 4, width=3, negatives=5)
        if prepared_before:
            resumed.prepare(data(*[0, 1, 2] * 4))
        resumed.load_state_dict(saved)
        resumed.prepare(data(*[0, 1, 2] * 4))  # keeps what is loaded
        torch.set_rng_state(draws)
        assert steps(resumed, 3, 6) == expected
        assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in resumed.state_dict().items())


def test_a_memory_of_other_images_is_refused_in_a_resumed_training_and_made_anew_in_another() -> None:
    trained = CRDLoss(4, 4)
    trained.prepare(data(0, 1, 2))
    resumed = CRDLoss(4, 4)
    resumed.prepare(data(0, 1, 2, 2))
    message = "^CRDLoss: a memory of 3 images found in the checkpoint, the 4 training images of the data expected"
    with pytest.raises(UserError, match=message):
        resumed.load_state_dict(trained.state_dict())
    trained.prepare(data(0, 1))
    assert trained.student_memory.shape == (2, 128)


def test_an_index_that_is_not_that_of_a_training_image_is_refused() -> None:
    loss, features = CRDLoss(2, 2), torch.ones(1, 2)
    with pytest.raises(ValueError, match=r"CRDLoss has no memory: its prepare\(data\) is called before training"):
        loss(features, features, index=FIRST, label=FIRST)
    loss.prepare(data(0, 1))
    for index in (-1, 2):
        with pytest.raises(ValueError, match=f"CRDLoss: index {index} to {index} found, 0 to 1 expected"):
            loss(features, features, index=torch.tensor([index]), label=FIRST)


@pytest.mark.parametrize(("student", "teacher"), [((2, 3), (2, 3)), ((2, 2), (2, 4)), ((2, 2), (3, 3)), ((2,), (2, 3))])
def test_other_widths_are_refused_with_both_shapes(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="as many images, and widths of 2 and 3, expected") as refusal:
        CRDLoss(2, 3)(torch.zeros(student), torch.zeros(teacher), index=FIRST, label=FIRST)
    assert f"student features {student} and teacher features {teacher}" in str(refusal.value)


def test_maps_and_tokens_are_averaged() -> None:
    features = torch.randn(2, 3)
    index = torch.tensor([0, 1])
    values = []
    for shaped in (features, features[:, :, None, None].expand(2, 3, 2, 2), features[:, None].expand(2, 4, 3)):
        torch.manual_seed(0)
        loss = CRDLoss(3, 3, negatives=4)
        loss.prepare(data(0, 1, 1))
        values.append(loss(shaped, shaped, index=index, label=index).item())
    assert values == [pytest.approx(values[0], rel=1e-6)] * 3


def test_projections_are_trained_and_banks_are_buffers() -> None:
    loss = CRDLoss(4, 4, negatives=5)
    loss.prepare(data(*[0, 1, 2] * 4))
    steps(loss, 0, 1)
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in loss.parameters())
    assert {name for name, _ in loss.named_buffers()} == {
        "student_memory",
        "teacher_memory",
        "row_label",
        "log_normaliser",
    }
