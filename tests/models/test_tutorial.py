import pytest
import torch
from torch import nn

from kd_lightning.models import DeepNN, LightNN


def published_teacher() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "features": nn.Sequential(
                nn.Conv2d(3, 128, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.Conv2d(128, 64, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(kernel_size=2, stride=2),
                nn.Conv2d(64, 64, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.Conv2d(64, 32, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(kernel_size=2, stride=2),
            ),
            "classifier": nn.Sequential(nn.Linear(2048, 512), nn.ReLU(), nn.Dropout(0.1), nn.Linear(512, 10)),
        }
    )


def published_student() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "features": nn.Sequential(
                nn.Conv2d(3, 16, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(kernel_size=2, stride=2),
                nn.Conv2d(16, 16, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(kernel_size=2, stride=2),
            ),
            "classifier": nn.Sequential(nn.Linear(1024, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, 10)),
        }
    )


PAIRS = [(DeepNN, published_teacher), (LightNN, published_student)]


@pytest.mark.parametrize(("network", "parameters"), [(DeepNN, 1_186_986), (LightNN, 267_738)])
def test_the_published_networks_have_their_parameter_counts(network: type[nn.Module], parameters: int) -> None:
    assert sum(p.numel() for p in network().parameters()) == parameters


@pytest.mark.parametrize(("ours", "published"), PAIRS)
def test_one_seed_gives_the_published_networks_weights_and_outputs(ours: type[nn.Module], published: type) -> None:
    torch.manual_seed(42)
    expected = published().eval()
    torch.manual_seed(42)
    network = ours().eval()
    image = torch.randn(2, 3, 32, 32)
    flat = expected["features"](image).flatten(1)
    torch.testing.assert_close(network(image), expected["classifier"](flat), rtol=0, atol=0)


@pytest.mark.parametrize(("ours", "published"), PAIRS)
def test_weights_that_the_tutorial_saved_fit(ours: type[nn.Module], published: type) -> None:
    ours().load_state_dict(published().state_dict())


@pytest.mark.parametrize(("network", "channels"), [(DeepNN, 32), (LightNN, 16)])
@pytest.mark.parametrize(("image_size", "size"), [(32, 8), (64, 16), (30, 7), (4, 1)])
def test_features_are_the_last_pooled_maps_at_a_quarter_of_the_size(
    network: type[nn.Module], channels: int, image_size: int, size: int
) -> None:
    net = network(image_size=image_size, num_classes=3)
    image = torch.zeros(2, 3, image_size, image_size)
    assert tuple(net.get_submodule("features")(image).shape) == (2, channels, size, size)
    assert tuple(net(image).shape) == (2, 3)


@pytest.mark.parametrize("network", [DeepNN, LightNN])
def test_an_image_too_small_for_two_halvings_is_refused(network: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="image_size 3 is too small for 2 halvings"):
        network(image_size=3)
