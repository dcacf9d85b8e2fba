import pytest
import torch
from torch import nn

from kd_lightning.errors import UserError
from kd_lightning.losses import ReviewKDLoss


def plain(layers: int) -> ReviewKDLoss:
    """A loss that passes maps of one channel through, and averages each with that of the deeper layers."""
    loss = ReviewKDLoss([1] * layers, [1] * layers).double().eval()
    for module in loss.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            if module.bias is None:
                module.weight.data[0, 0, module.kernel_size[0] // 2, module.kernel_size[1] // 2] = 1
            else:
                nn.init.zeros_(module.bias)  # equal shares
    return loss


def test_maps_are_compared_as_they_are_and_averaged_to_smaller_sizes() -> None:
    student = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)
    # 30/4, and 2.5² with half the weight.
    assert plain(1)([student], [torch.zeros_like(student)]).item() == pytest.approx((7.5 + 6.25 / 2) / 1.5)


def test_each_smaller_size_has_half_the_weight_of_the_one_before() -> None:
    student = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    student[0, 0, 0, 0] = 64.0
    # 64²/64; in 4x4 one place of 16, in 2x2 one of 4, in 1x1 of 1.
    expected = (64 + (16**2 / 16) / 2 + (4**2 / 4) / 4 + 1 / 8) / (1 + 1 / 2 + 1 / 4 + 1 / 8)
    assert plain(1)([student], [torch.zeros_like(student)]).item() == pytest.approx(expected)


def test_a_layer_is_fused_with_the_deeper_ones_and_brought_to_the_teacher_s_size() -> None:
    student = [torch.full((1, 1, 2, 2), 2.0).double(), torch.full((1, 1), 4.0).double()]
    for size in (2, 4, 1):
        teacher = [torch.zeros(1, 1, size, size).double(), torch.ones(1, 1, 1, 1).double()]
        # Deepest: (4 - 1)². First: (2 + 4) / 2 = 3, against 0 in every size.
        assert plain(2)(student, teacher).item() == pytest.approx(9 + 9)


def test_fusions_are_as_wide_as_the_deepest_layer_of_at_most_512() -> None:
    widths = [ReviewKDLoss([3, last], [4, 5]).fusions[0].reduce[0].out_channels for last in (7, 600)]
    assert widths == [7, 512]


def test_every_fusion_is_trained() -> None:
    loss = ReviewKDLoss([2, 3, 3], [4, 5, 5])
    sizes = ((4, 4), (2, 2), ())
    student, teacher = (
        [torch.randn(3, c, *s) for c, s in zip(cs, sizes, strict=True)] for cs in ((2, 3, 3), (4, 5, 5))
    )
    loss(student, teacher).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in loss.parameters())


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 2, 4), (2,)])
def test_other_channels_are_refused_with_all_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not match") as refusal:
        ReviewKDLoss([2, 3], [4, 5])(
            [torch.zeros(shape), torch.zeros(2, 3)], [torch.zeros(2, 4, 4, 4), torch.zeros(2, 5)]
        )
    assert str(refusal.value) == (
        f"student features [{shape}, (2, 3)] and teacher features [(2, 4, 4, 4), (2, 5)] do not match: maps of (2, 3) "
        "and (4, 5) channels, the deepest layer last, expected"
    )


@pytest.mark.parametrize("channels", [([2, 3], [4]), ([], [])])
def test_channels_are_given_for_as_many_layers_of_both(channels: tuple[list[int], list[int]]) -> None:
    with pytest.raises(
        UserError, match=r"^student_channels, teacher_channels: \d and \d layers found, as many of each"
    ):
        ReviewKDLoss(*channels)
