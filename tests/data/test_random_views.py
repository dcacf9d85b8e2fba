"""Random augmentation with a number for each view."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from kd_lightning.data import RandomViews
from kd_lightning.errors import UserError
from tests.data.made import batches_of_epoch, made

STRONG = [v2.RandomResizedCrop(6, scale=(0.5, 1)), v2.RandAugment(), v2.RandomErasing(), v2.ColorJitter(0.4)]


def noise(seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def view(views: RandomViews, index: int, number: int) -> Tensor:
    return views.augment(noise()[:1], torch.tensor([index]), torch.tensor([number]))


def test_a_view_is_a_function_of_seed_image_and_number() -> None:
    views = RandomViews(STRONG, count=4)
    first = view(views, 0, 0)
    torch.manual_seed(5)
    assert torch.equal(view(RandomViews(STRONG, count=8), 0, 0), first)
    others = [view(views, 1, 0), view(views, 0, 1), view(RandomViews(STRONG, seed=1), 0, 0)]
    assert not any(torch.equal(other, first) for other in others)


class Noise(nn.Module):
    """Draws from three generators."""

    def forward(self, image: Tensor) -> Tensor:
        shift = random.randrange(256) + np.random.randint(256) + int(torch.randint(256, ()))  # noqa: NPY002
        return ((image.int() + shift) % 256).byte()


def test_views_are_seeded_in_every_generator_and_leave_them_as_they_were() -> None:
    views = RandomViews([Noise()])
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    first = view(views, 3, 2)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected  # noqa: NPY002
    assert torch.equal(view(views, 3, 2), first)


def test_batches_are_the_same_from_workers_from_memory_and_from_files(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"views": RandomViews(STRONG, count=3), "batch_size": 7, "val_size": 3, "seed": 1}
    expected = batches_of_epoch(made(**options), 2)
    assert len({tuple(batch.view.tolist()) for batch in expected}) > 1
    for resident_bytes in (10, 2**30):
        monkeypatch.setattr("kd_lightning.data.batches.RESIDENT_BYTES", resident_bytes)
        for workers in (0, 2):
            found = batches_of_epoch(made(**options, num_workers=workers), 2)
            for ours, theirs in zip(found, expected, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(ours[:4], theirs[:4], strict=True))


def test_workers_augment(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(views=RandomViews(STRONG, count=3), num_workers=1)
    (batch,) = [data.train_dataloader()]
    index, images = next(iter(batch))
    monkeypatch.setattr(RandomViews, "augment", lambda *args: pytest.fail("augmented in the main process"))
    assert data.on_after_batch_transfer((index, images), 0).image.shape == (24, 1, 6, 6)


def test_evaluated_images_are_not_augmented() -> None:
    data = made(views=RandomViews(STRONG), val_size=4)
    torch.testing.assert_close(data.make_batch(data.val_positions).image[:, 0, 2, 2], data.val_positions.float())


def test_views_without_a_number_are_new_in_every_epoch() -> None:
    data = made(views=RandomViews(STRONG, count=None))
    assert data.view_count is None
    numbers = torch.cat([batch.view for epoch in (0, 1) for batch in batches_of_epoch(data, epoch)])
    assert len(numbers.unique()) == 48


class Twice(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.repeat(1, int(torch.randint(1, 3, ())), 1)


@pytest.mark.parametrize(
    ("transforms", "problem"),
    [
        ([], "transforms: none found, at least one expected"),
        ([v2.ToDtype(torch.float32, scale=True)], "leave out ToDtype, ToTensor and Normalize"),
        (
            [v2.Grayscale(3)],
            "transforms: an image uint8 \\(3, 6, 6\\) found after the last one, uint8 \\(1, height, width\\)",
        ),
        ([v2.RandomCrop(9)], "transforms: RandomCrop failed: "),
        ([Twice()], "transforms: images of 12x6 and 6x6 pixels found, one size expected"),
    ],
)
def test_transforms_that_do_not_fit_are_one_line(transforms: list, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        RandomViews(transforms).augment(noise().repeat(4, 1, 1, 1), torch.arange(12), torch.zeros(12).long())


def test_lists_of_others_end_in_a_tensor_or_a_pil_image() -> None:
    for transforms in ([v2.ToImage(), v2.RandAugment()], [v2.ToPILImage(), v2.RandomHorizontalFlip()]):
        assert view(RandomViews(transforms), 0, 0).dtype == torch.uint8
