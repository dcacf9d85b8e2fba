from collections import Counter
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import affine, crop, hflip, pad

from kd_lightning.data import CropFlip, Identity, Shift


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def moved(image: Tensor, down: int, right: int) -> Tensor:
    return affine(image, angle=0, translate=[right, down], scale=1, shear=0)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 7), (3, 5, 12)])
def test_each_shift_is_torchvisions_affine_to_the_pixel(shape: tuple[int, ...]) -> None:
    shift = Shift(2)
    image = random_images(1, *shape)
    views = shift.gather(shift.prepare(image), torch.zeros(25, dtype=torch.int64), torch.arange(25))
    assert views.dtype == torch.uint8
    for (down, right), view in zip(shift.offsets, views, strict=True):
        assert torch.equal(view, moved(image[0], down, right)), (down, right)


def test_a_batch_shows_each_of_its_images_under_its_own_view() -> None:
    shift = Shift(2)
    images = random_images(3, 3, 6, 8)
    index, view = torch.tensor([2, 0, 2, 1]), torch.tensor([7, 0, 24, 7])
    shown = shift.gather(shift.prepare(images), index, view)
    expected = [moved(images[i], *shift.offsets[v]) for i, v in zip(index.tolist(), view.tolist(), strict=True)]
    assert torch.equal(shown, torch.stack(expected))


def test_offsets_are_each_of_the_25_once_with_the_untouched_image_first() -> None:
    shift = Shift(2)
    assert shift.count == 25
    assert shift.offsets[:3] == [(0, 0), (-2, -2), (-2, -1)]
    assert set(shift.offsets) == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}


def test_view_0_is_the_image_itself() -> None:
    shift, images = Shift(2), random_images(4, 1, 5, 6)
    shown = shift.gather(shift.prepare(images), torch.arange(4), torch.zeros(4, dtype=torch.int64))
    assert torch.equal(shown, images)


def test_the_probability_of_a_shift_halves_at_each_outermost_offset() -> None:
    shift = Shift(2)
    probability = {
        offset: Fraction(p).limit_denominator(1000)
        for offset, p in zip(shift.offsets, shift.probabilities.tolist(), strict=True)
    }
    assert probability[0, 0] == probability[-1, 1] == Fraction(1, 16)
    assert probability[2, 0] == probability[1, -2] == Fraction(1, 32)
    assert probability[2, 2] == probability[-2, 2] == Fraction(1, 64)
    assert Counter(probability.values()) == {Fraction(1, 16): 9, Fraction(1, 32): 12, Fraction(1, 64): 4}
    assert sum(probability.values()) == 1


def test_views_are_drawn_with_their_probabilities() -> None:
    shift = Shift(2)
    drawn = shift.draw(200_000, torch.Generator().manual_seed(0))
    frequency = drawn.bincount(minlength=25) / len(drawn)
    # The widest standard deviation is 0.0005.
    torch.testing.assert_close(frequency, shift.probabilities, rtol=0, atol=0.0025)


def test_the_same_generator_draws_the_same_views() -> None:
    first, again, other = (Shift(2).draw(100, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_shift_by_one_pixel_has_nine_views_of_which_the_middle_is_likeliest() -> None:
    shift = Shift(1)
    assert shift.count == 9
    by_offset = dict(zip(shift.offsets, shift.probabilities.tolist(), strict=True))
    assert (by_offset[0, 0], by_offset[0, 1], by_offset[-1, 1]) == (1 / 4, 1 / 8, 1 / 16)


def test_the_views_follow_the_images_to_their_device() -> None:
    shift = Shift()
    prepared, index, view = (
        it.to("meta") for it in (shift.prepare(random_images(3, 1, 5, 6)), *torch.zeros(2, 4).long())
    )
    assert shift.gather(prepared, index, view).shape == (4, 1, 5, 6)
    assert shift._starts.device == torch.device("meta")


@pytest.mark.parametrize("max_shift", [0, -1])
def test_a_shift_by_no_pixel_is_refused(max_shift: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 pixel, not {max_shift}"):
        Shift(max_shift)


def test_no_augmentation_has_one_view_that_picks_the_images() -> None:
    images = random_images(4, 1, 3, 3)
    view = Identity().draw(2, torch.Generator())
    assert view.tolist() == [0, 0]
    assert view.dtype == torch.int64
    assert torch.equal(Identity().gather(images, torch.tensor([3, 1]), view), images[[3, 1]])


@pytest.mark.parametrize(("shape", "padding", "step"), [((3, 32, 32), 4, 1), ((1, 5, 9), 2, 1), ((3, 32, 32), 4, 2)])
def test_each_crop_is_torchvisions_crop_of_the_padded_image_mirrored_or_not(
    shape: tuple[int, ...], padding: int, step: int
) -> None:
    views = CropFlip(padding, step=step)
    image = random_images(1, *shape)
    shown = views.gather(views.prepare(image), torch.zeros(views.count, dtype=torch.int64), torch.arange(views.count))
    height, width = shape[1:]
    for number, view in enumerate(shown):
        down, right = views.offsets[number % len(views.offsets)]
        # A crop that starts `padding - down` rows from the top moves the image down by `down`.
        expected = crop(pad(image[0], padding), padding - down, padding - right, height, width)
        if number >= len(views.offsets):
            expected = hflip(expected)
        assert torch.equal(view, expected), number


def test_crops_by_four_and_mirrors_are_162_views_all_alike_in_probability() -> None:
    views = CropFlip()
    assert views.count == 162
    torch.testing.assert_close(views.probabilities, torch.full((162,), 1 / 162))
    image = random_images(2, 3, 8, 8)
    shown = views.gather(views.prepare(image), torch.tensor([1, 1]), torch.tensor([0, 81]))
    assert torch.equal(shown[0], image[1])
    assert torch.equal(shown[1], image[1].flip(-1))


def test_crops_a_step_apart_are_fewer_and_the_first_is_the_image_itself() -> None:
    views = CropFlip(padding=16, mirror=False, step=16)
    assert views.offsets[0] == (0, 0)
    assert sorted(views.offsets) == [(down, right) for down in (-16, 0, 16) for right in (-16, 0, 16)]
    assert views.probabilities.tolist() == [pytest.approx(1 / 9)] * 9


@pytest.mark.parametrize("step", [0, -1, 3, 8])
def test_a_step_that_does_not_divide_the_padding_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=f"divide the padding of 4, not {step}"):
        CropFlip(4, step=step)


def test_crops_without_mirrors_are_half_as_many() -> None:
    views = CropFlip(padding=1, mirror=False)
    assert (views.count, views.probabilities.tolist()) == (9, [pytest.approx(1 / 9)] * 9)


def test_mirrors_alone_have_two_views() -> None:
    views, image = CropFlip(padding=0), random_images(1, 1, 2, 3)
    shown = views.gather(views.prepare(image), torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert torch.equal(shown, torch.cat([image, image.flip(-1)]))


def test_a_crop_with_less_than_no_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0 pixels, not -1"):
        CropFlip(-1)


def test_a_family_is_told_from_every_other_by_its_name() -> None:
    class Narrow(Shift):
        def __init__(self, max_shift: int = 2, columns: int = 0) -> None:
            super().__init__(max_shift)
            self.columns = columns

    families = [
        Identity(),
        Shift(1),
        Shift(2),
        CropFlip(1),
        CropFlip(2),
        CropFlip(2, mirror=False),
        CropFlip(2, step=2),
    ]
    families += [Narrow(), Narrow(columns=1)]
    assert len({repr(family) for family in families}) == 9
    assert repr(Narrow(1, 1)) == repr(Narrow(1, 1))


def test_the_names_are_those_under_which_answers_are_kept() -> None:
    assert repr(Identity()) == "Identity()"
    offsets = "[(0, 0), (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]"
    assert repr(Shift(1)) == f"Shift({{'margin': 1, 'offsets': {offsets}, 'count': 9}})"
    assert (repr(Shift()), repr(CropFlip())) == (repr(Shift(2)), repr(CropFlip(4, True, 1)))
