"""What holds for all images, views and splits."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kd_lightning.data import CropFlip, Shift
from kd_lightning.data.splits import stratified, stratified_order
from kd_lightning.data.views import ViewFamily

sides = st.integers(1, 9)
seeds = st.integers(0, 2**31)
families = st.one_of(
    st.integers(1, 4).map(Shift),
    st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 3)).map(
        lambda drawn: CropFlip(drawn[0] * drawn[2], mirror=drawn[1], step=drawn[2])
    ),
)
labels = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(torch.tensor)


def moved(image: Tensor, down: int, right: int) -> Tensor:
    """An image (C, H, W) whose every pixel was put where it belongs, one by one."""
    result = torch.zeros_like(image)
    height, width = image.shape[1:]
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                result[:, y, x] = image[:, y - down, x - right]
    return result


@given(families, st.integers(1, 3), sides, sides, seeds)
def test_every_view_of_every_image_is_the_image_moved_and_mirrored(
    family: ViewFamily, channels: int, height: int, width: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (3, channels, height, width), dtype=torch.uint8, generator=generator)
    index = torch.randint(0, 3, (8,), generator=generator)
    view = torch.randint(0, family.count, (8,), generator=generator)
    found = family.gather(family.prepare(images), index, view)
    offsets = family.offsets  # type: ignore[attr-defined]  # of both families
    for place, shown in zip(range(8), found, strict=True):
        expected = moved(images[index[place]], *offsets[view[place] % len(offsets)])
        expected = expected.flip(-1) if view[place] >= len(offsets) else expected
        assert torch.equal(shown, expected)


@given(families, sides, seeds)
def test_view_0_is_the_image(family: ViewFamily, side: int, seed: int) -> None:
    images = torch.randint(0, 256, (4, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    index = torch.tensor([3, 0])
    assert torch.equal(family.gather(family.prepare(images), index, torch.zeros(2, dtype=torch.int64)), images[index])


@given(families, st.integers(0, 50), seeds)
def test_views_are_drawn_within_the_family_and_by_the_seed_alone(family: ViewFamily, size: int, seed: int) -> None:
    one, other = (family.draw(size, torch.Generator().manual_seed(seed)) for _ in range(2)) if size else ([], [])
    assert list(one) == list(other)
    assert all(0 <= view < family.count for view in one)


@given(labels, st.data(), seeds)
def test_a_split_is_disjoint_complete_stratified_and_of_the_seed_alone(
    label: Tensor, data: st.DataObject, seed: int
) -> None:
    size = data.draw(st.integers(0, len(label)))
    held_out = stratified(label, size, torch.Generator().manual_seed(seed))
    assert torch.equal(held_out, stratified(label, size, torch.Generator().manual_seed(seed)))
    assert len(set(held_out.tolist())) == len(held_out) == size
    assert held_out.tolist() == sorted(held_out.tolist())
    for c in label.unique():
        expected = (label == c).sum().item() * size / len(label)
        assert abs((label[held_out] == c).sum().item() - expected) < len(label.unique())


@given(labels, seeds)
def test_a_stratified_order_holds_every_place_once(label: Tensor, seed: int) -> None:
    order = stratified_order(label, torch.Generator().manual_seed(seed))
    assert sorted(order.tolist()) == list(range(len(label)))
