import pytest
import torch

from kd_lightning.models import MLP


@pytest.mark.parametrize(
    ("hidden", "parameters"),
    [
        (30, 784 * 30 + 30 + 30 * 30 + 30 + 30 * 10 + 10),
        (200, 199_210),
        (800, 1_276_810),
        (1200, 2_395_210),
    ],
)
def test_the_published_networks_have_their_parameter_counts(hidden: int, parameters: int) -> None:
    network = MLP([784, hidden, hidden, 10], input_dropout=0.2, hidden_dropout=0.5)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_weights_have_the_same_names_with_and_without_dropout() -> None:
    plain, regularised = MLP([4, 8, 8, 3]), MLP([4, 8, 8, 3], input_dropout=0.2, hidden_dropout=0.5)
    names = [f"linear{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")]
    assert list(plain.state_dict()) == list(regularised.state_dict()) == names


def test_dropout_follows_the_input_and_each_hidden_layer_but_not_the_output() -> None:
    network = MLP([4, 8, 8, 3], input_dropout=0.2, hidden_dropout=0.5)
    order = "flatten input_dropout linear1 relu1 dropout1 linear2 relu2 dropout2 linear3"
    assert [name for name, _ in network.named_children()] == order.split()
    assert [network.get_submodule(name).p for name in ("input_dropout", "dropout1", "dropout2")] == [0.2, 0.5, 0.5]


def test_without_dropout_there_is_no_such_layer() -> None:
    assert [name for name, _ in MLP([4, 8, 3]).named_children()] == ["flatten", "linear1", "relu1", "linear2"]


def test_images_are_flattened_to_one_row_of_outputs_each() -> None:
    assert tuple(MLP([3 * 4 * 5, 7, 6])(torch.zeros(2, 3, 4, 5)).shape) == (2, 6)


def test_hidden_units_are_rectified_and_outputs_are_not() -> None:
    network = MLP([1, 2, 1])
    with torch.no_grad():
        network.linear1.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        network.linear1.bias.zero_()
        network.linear2.weight.copy_(torch.tensor([[-3.0, 5.0]]))
        network.linear2.bias.fill_(0.25)
    assert network(torch.tensor([[2.0], [-2.0]])).tolist() == [[-5.75], [10.25]]


@pytest.mark.parametrize("widths", [[], [784]])
def test_fewer_than_two_widths_are_refused(widths: list[int]) -> None:
    with pytest.raises(ValueError, match="needs its input's and its output's width"):
        MLP(widths)


@pytest.mark.parametrize("option", ["input_dropout", "hidden_dropout"])
def test_a_dropout_probability_above_one_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        MLP([4, 8, 3], **{option: 1.5})
