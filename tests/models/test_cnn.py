import pytest
import torch

from kd_lightning.models import CNN


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_default_network_has_its_parameter_count() -> None:
    first, second = 1 * 9 * 16 + 16, 16 * 9 * 32 + 32
    assert count(CNN()) == first + second + (32 * 7 * 7 * 128 + 128) + (128 * 10 + 10) == 206_922


def test_without_hidden_layers_the_classifier_reads_the_last_block() -> None:
    network = CNN(channels=[4], hidden=[], image_size=8, num_classes=3)
    assert [name for name, _ in network.named_children()] == ["conv1", "conv_relu1", "pool1", "flatten", "classifier"]
    assert count(network) == (9 * 4 + 4) + (4 * 4 * 4 * 3 + 3)


@pytest.mark.parametrize(
    ("channels", "in_channels", "image_size", "features"),
    [
        ([4, 6], 1, 28, 6 * 7 * 7),
        ([4, 6, 5], 3, 28, 5 * 3 * 3),  # 28, 14, 7, 3: rounded down
        ([2, 2, 2], 1, 8, 2 * 1 * 1),
    ],
)
def test_each_block_halves_the_image_rounding_down(
    channels: list[int], in_channels: int, image_size: int, features: int
) -> None:
    network = CNN(channels, [11], in_channels, image_size, num_classes=7)
    assert network.linear1.in_features == features
    assert tuple(network(torch.zeros(2, in_channels, image_size, image_size)).shape) == (2, 7)


@pytest.mark.parametrize(("image_size", "blocks"), [(8, 4), (28, 5)])
def test_an_image_too_small_for_its_blocks_is_refused(image_size: int, blocks: int) -> None:
    with pytest.raises(ValueError, match=f"image_size {image_size} is too small for {blocks} halvings"):
        CNN(channels=[1] * blocks, image_size=image_size)
