import pytest
import torch
from torch import nn

from kd_lightning.models import VGG

TEACHER = [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]]
STUDENT = [[32, 32], [64, 64], [128], [128], [128]]


def layer(fan_in: int, fan_out: int, dropout: float | None = None) -> list[nn.Module]:
    layers = [
        nn.Conv2d(fan_in, fan_out, kernel_size=3, padding=1),
        nn.BatchNorm2d(fan_out, track_running_stats=False),
        nn.ReLU(),
    ]
    return layers if dropout is None else [nn.Dropout(dropout), *layers]


def published_teacher() -> nn.Sequential:
    return nn.Sequential(
        *layer(3, 64, 0.1),
        *layer(64, 64, 0.1),
        nn.MaxPool2d(kernel_size=2, stride=2),
        *layer(64, 128, 0.1),
        *layer(128, 128, 0.1),
        nn.MaxPool2d(kernel_size=2, stride=2),
        *layer(128, 256, 0.1),
        *layer(256, 256, 0.1),
        *layer(256, 256, 0.1),
        nn.MaxPool2d(kernel_size=2, stride=2),
        *layer(256, 512, 0.1),
        *layer(512, 512, 0.1),
        *layer(512, 512, 0.1),
        nn.MaxPool2d(kernel_size=2, stride=2),
        *layer(512, 512, 0.1),
        *layer(512, 512, 0.1),
        *layer(512, 512, 0.1),
        nn.MaxPool2d(kernel_size=2, stride=2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def published_student() -> nn.Sequential:
    return nn.Sequential(
        *layer(3, 32),
        *layer(32, 32),
        nn.MaxPool2d(kernel_size=2, stride=2),
        *layer(32, 64),
        *layer(64, 64),
        nn.MaxPool2d(kernel_size=2, stride=2),
        *layer(64, 128),
        nn.MaxPool2d(kernel_size=2, stride=2),
        *layer(128, 128),
        nn.MaxPool2d(kernel_size=2, stride=2),
        *layer(128, 128),
        nn.MaxPool2d(kernel_size=2, stride=2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


@pytest.mark.parametrize("track_running_stats", [True, False])
@pytest.mark.parametrize(
    ("blocks", "dropout", "parameters"), [(TEACHER, 0.1, 14_728_266), (STUDENT, 0.0, 437_034)], ids=["big", "small"]
)
def test_the_published_networks_have_their_parameter_counts(
    blocks: list[list[int]], dropout: float, parameters: int, track_running_stats: bool
) -> None:
    network = VGG(blocks, dropout, track_running_stats)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("blocks", "dropout", "published", "rounding"),
    # The teacher's widest layers are products, which add up in another order than a convolution.
    [(TEACHER, 0.1, published_teacher, 1e-5), (STUDENT, 0.0, published_student, 0)],
    ids=["big", "small"],
)
def test_one_seed_gives_the_published_networks_weights_and_outputs(
    blocks: list[list[int]], dropout: float, published: type, rounding: float
) -> None:
    torch.manual_seed(0)
    expected = published().eval()
    torch.manual_seed(0)
    network = VGG(blocks, dropout, track_running_stats=False).eval()
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(image), expected(image), rtol=0, atol=rounding)


def test_dropout_comes_before_each_convolution_and_a_pool_ends_each_block() -> None:
    network = VGG([[4, 5], [6]], dropout=0.1)
    assert [name for name, _ in network.named_children()] == ["block1", "block2", "average", "flatten", "classifier"]
    order = "dropout1 conv1 norm1 relu1 dropout2 conv2 norm2 relu2 pool"
    assert [name for name, _ in network.block1.named_children()] == order.split()
    assert network.get_submodule("block2.dropout1").p == 0.1


def test_weights_have_the_same_names_with_and_without_dropout() -> None:
    plain, regularised = VGG([[4, 5], [6]]), VGG([[4, 5], [6]], dropout=0.1)
    regularised.load_state_dict(plain.state_dict())
    assert not any("dropout" in name for name, _ in plain.named_modules())


@pytest.mark.parametrize("track_running_stats", [True, False])
@pytest.mark.parametrize("image_size", [4, 5, 11, 32])
def test_one_image_of_any_size_large_enough_is_read(image_size: int, track_running_stats: bool) -> None:
    network = VGG([[4], [6]], track_running_stats=track_running_stats, num_classes=3, in_channels=1).eval()
    image = torch.zeros(1, 1, image_size, image_size)
    size = image_size // 4
    assert tuple(network.block2(network.block1(image)).shape) == (1, 6, size, size)
    assert tuple(network(image).shape) == (1, 3)


def test_with_running_statistics_an_images_outputs_do_not_depend_on_its_batch() -> None:
    image = torch.randn(4, 3, 8, 8)
    for track_running_stats in (True, False):
        network = VGG([[4], [6]], track_running_stats=track_running_stats).eval()
        assert torch.allclose(network(image)[:2], network(image[:2])) is track_running_stats


def test_in_eval_mode_without_running_statistics_the_batchs_own_are_taken() -> None:
    network = VGG([[4], [6]], track_running_stats=False)
    image = torch.randn(4, 3, 8, 8)
    assert torch.equal(network.train()(image), network.eval()(image))
    assert not list(network.buffers())
