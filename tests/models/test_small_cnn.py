import pytest
import torch
from torch import nn

from kd_lightning.models import SmallCNN


def published() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, kernel_size=5, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=5, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(576, 250),
        nn.ReLU(),
        nn.Linear(250, 50),
        nn.ReLU(),
        nn.Linear(50, 10),
    )


def test_the_published_network_has_its_size() -> None:
    network = SmallCNN()
    tensors = [*network.parameters(), *network.buffers()]
    convolutions = (3 * 25 * 16 + 16) + (16 * 25 * 32 + 32) + (32 * 9 * 64 + 64)
    linears = (576 * 250 + 250) + (250 * 50 + 50) + (50 * 10 + 10)
    assert sum(t.numel() for t in tensors) == convolutions + linears == 189_854
    assert sum(t.numel() * t.element_size() for t in tensors) / 2**20 == pytest.approx(0.724, abs=5e-4)


def test_one_seed_gives_the_published_networks_weights_and_outputs() -> None:
    torch.manual_seed(0)
    expected = published()
    torch.manual_seed(0)
    network = SmallCNN()
    image = torch.randn(2, 3, 128, 128)
    torch.testing.assert_close(network(image), expected(image), rtol=0, atol=0)


@pytest.mark.parametrize("image_size", [37, 38, 39, 40, 41, 53, 64, 96, 128, 224])
def test_an_image_of_any_size_large_enough_is_read(image_size: int) -> None:
    network = SmallCNN(image_size, num_classes=2)
    assert tuple(network(torch.zeros(2, 3, image_size, image_size)).shape) == (2, 2)


@pytest.mark.parametrize("image_size", [0, 32, 36])
def test_an_image_too_small_for_the_layers_is_refused(image_size: int) -> None:
    with pytest.raises(ValueError, match=f"image_size {image_size} is too small, at least 37 expected"):
        SmallCNN(image_size)


def test_the_smallest_image_is_the_smallest_that_the_layers_read() -> None:
    assert tuple(published()[:10](torch.zeros(1, 3, 37, 37)).shape) == (1, 64)
    with pytest.raises(RuntimeError, match="Output size is too small"):
        published()[:10](torch.zeros(1, 3, 36, 36))
