import pytest
import torch
from torch import nn

from kd_lightning.models import CNN, MLP, VGG, DeepNN, LightNN, Logits, SmallCNN, densenet121


def layer() -> Logits:
    """Whose output of [1, 1] is 1 + 2**-10 and 257: neither is a bfloat16."""
    logits = Logits(2, 2)
    with torch.no_grad():
        logits.weight.copy_(torch.tensor([[1.0, 2**-10], [256.0, 1.0]]))
        logits.bias.zero_()
    return logits


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
def test_no_digit_is_lost_in_bfloat16(parameters: torch.dtype) -> None:
    logits = layer().to(parameters)
    features = torch.ones(1, 2, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        output, rounded = logits(features), nn.Linear.forward(layer(), features)
    assert output.dtype == torch.float32
    assert output.tolist() == [[1 + 2**-10, 257.0]]
    assert rounded.tolist() == [[1.0, 256.0]]  # what torch's own makes of them


def test_gradients_reach_features_and_parameters_in_their_own_types() -> None:
    logits, features = layer(), torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = logits(features)[0, 1]
    gradients = torch.autograd.grad(output, [features, logits.weight, logits.bias])
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32, torch.float32]
    assert [gradient.tolist() for gradient in gradients] == [[[256.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]], [0.0, 1.0]]


def test_without_a_bias_it_multiplies_alone() -> None:
    logits = Logits(1, 1, bias=False)
    assert logits(torch.tensor([[3.0]])).item() == pytest.approx(3 * logits.weight.item())


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MLP([12, 5, 10]), (1, 3, 4)),
        (CNN(channels=[2], hidden=[5]), (1, 28, 28)),
        (SmallCNN(image_size=64), (3, 64, 64)),
        (DeepNN(image_size=8), (3, 8, 8)),
        (LightNN(image_size=8), (3, 8, 8)),
        (VGG([[4], [4]]), (3, 8, 8)),
        (densenet121(head=[5]), (3, 32, 32)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_network_ends_with_it(network: nn.Module, shape: tuple[int, ...]) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network.eval()(torch.rand(2, *shape)).dtype == torch.float32


def test_shapes_are_told_on_the_meta_device() -> None:
    assert Logits(4, 3, device="meta")(torch.empty(2, 4, device="meta")).shape == (2, 3)
