import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.models.layers.conv import MAX_PIXELS, MIN_CHANNELS, Conv3x3


def refuse(self: nn.Conv2d, maps: Tensor) -> Tensor:
    raise AssertionError("a convolution found, a product expected")


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 5), (4, 4), (1, 16)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_product_gives_the_convolution_s_outputs_and_gradients(size, memory_format, monkeypatch) -> None:
    torch.manual_seed(0)
    conv = Conv3x3(256, 3).double().to(memory_format=memory_format)
    maps = torch.randn(2, 256, *size, dtype=torch.double).to(memory_format=memory_format).requires_grad_()
    inputs = (maps, conv.weight, conv.bias)
    expected = F.conv2d(*inputs, padding=1)
    weights_of_sum = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, inputs, weights_of_sum)
    monkeypatch.setattr(nn.Conv2d, "forward", refuse)
    outputs = conv(maps)
    torch.testing.assert_close(outputs, expected)
    for found, gradient in zip(torch.autograd.grad(outputs, inputs, weights_of_sum), gradients, strict=True):
        torch.testing.assert_close(found, gradient)


def test_a_product_of_maps_counted_by_hand() -> None:
    conv = Conv3x3(256, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.arange(9.0).view(3, 3).expand(1, 256, 3, 3))  # the window's places, row by row
        conv.bias.fill_(0.5)
    maps = torch.zeros(1, 256, 2, 2)
    maps[0, 7] = torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
    # The upper left pixel stands in the window's middle (4), its right, lower and last neighbours at 5, 7 and 8.
    assert conv(maps)[0, 0].tolist() == [[4 + 50 + 700 + 8000 + 0.5, 3 + 40 + 600 + 7000 + 0.5],
                                         [1 + 20 + 400 + 5000 + 0.5, 0 + 10 + 300 + 4000 + 0.5]]  # fmt: skip


@pytest.mark.parametrize(("channels", "height", "width"), [(MIN_CHANNELS - 1, 2, 2), (MIN_CHANNELS, MAX_PIXELS + 1, 1)])
def test_larger_or_narrower_maps_are_torch_s_own_business(channels, height, width, monkeypatch) -> None:
    conv = Conv3x3(channels, 2)
    maps = torch.randn(1, channels, height, width)
    assert torch.equal(conv(maps), F.conv2d(maps, conv.weight, conv.bias, padding=1))
    monkeypatch.setattr(nn.Conv2d, "forward", refuse)
    with pytest.raises(AssertionError, match="product expected"):
        conv(maps)


def test_mixed_precision_reaches_the_product() -> None:
    conv = Conv3x3(256, 4)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = conv(torch.randn(2, 256, 2, 2))
    assert outputs.dtype == torch.bfloat16
    outputs.float().sum().backward()
    assert conv.weight.grad.dtype == torch.float32


def test_weights_and_start_are_those_of_torch_s_convolution() -> None:
    torch.manual_seed(0)
    ours = Conv3x3(256, 8).state_dict()
    torch.manual_seed(0)
    theirs = nn.Conv2d(256, 8, 3, padding=1).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_exported_network_has_a_convolution() -> None:
    program = torch.export.export(Conv3x3(256, 8).eval(), (torch.zeros(2, 256, 4, 4),))
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called == ["aten.conv2d.default"]
