"""MixUp and CutMix, with a fixed number of mixes of each image and live."""

import pytest
import torch
from torchvision.transforms import v2

from kd_lightning.batch import Batch
from kd_lightning.data import CutMix, Mix, MixUp, Shift
from kd_lightning.data.mixes import Draws
from kd_lightning.errors import UserError
from tests.data.made import TRAIN_LABELS, batches_of_epoch, made

FIRST, SECOND = torch.full((1, 1, 4, 8), 8.0), torch.zeros(1, 1, 4, 8)


def draws(weight: float, row: float = 0.5, column: float = 0.5) -> Draws:
    return Draws(torch.tensor([weight]), torch.tensor([[row, column]]))


def test_mixup_is_the_weighted_mean() -> None:
    image, share = MixUp().combine(FIRST, SECOND, draws(0.25))
    assert image.unique().tolist() == [2.0]
    assert share.tolist() == [0.25]


@pytest.mark.parametrize(
    ("row", "column", "rows", "columns"),
    [
        (0.5, 0.5, slice(1, 3), slice(2, 6)),
        (0.0, 0.99, slice(0, 1), slice(5, 8)),
        (0.99, 0.0, slice(2, 4), slice(0, 2)),
    ],
)
def test_cutmix_replaces_a_box_that_ends_at_the_border(row: float, column: float, rows: slice, columns: slice) -> None:
    image, share = CutMix().combine(FIRST, SECOND, draws(0.75, row, column))  # a box of half the sides
    expected = FIRST.clone()
    expected[..., rows, columns] = 0
    assert torch.equal(image, expected)
    assert share.item() == pytest.approx(expected.mean().item() / 8)  # the share of the area


def test_cutmix_is_that_of_torchvision() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 1, 16, 12)
    state = torch.get_rng_state()
    theirs, target = v2.CutMix(alpha=1.0, num_classes=2)(images, torch.tensor([0, 1]))
    torch.set_rng_state(state)
    weight = torch._sample_dirichlet(torch.ones(2))[0].item()  # torchvision's draws, in its order
    column, row = torch.randint(12, (1,)).item(), torch.randint(16, (1,)).item()
    both = Draws(torch.tensor([weight] * 2), torch.tensor([[row / 16, column / 12]] * 2))
    ours, share = CutMix().combine(images, images.roll(1, 0), both)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(share, target.diagonal())


def test_weights_are_of_a_beta_distribution() -> None:
    for alpha, variance in ((1.0, 1 / 12), (0.2, 1 / 5.6), (2.0, 1 / 20)):
        weight = MixUp(alpha).draw(20_000, torch.Generator().manual_seed(0)).weight
        assert weight.mean().item() == pytest.approx(0.5, abs=0.01)
        assert weight.var().item() == pytest.approx(variance, rel=0.03)


def check_mixed(batch: Batch) -> None:
    """Compare images, whose grey level is their index, with the mixed labels."""
    assert batch.target is not None
    torch.testing.assert_close(batch.target.sum(dim=1), torch.ones(len(batch.label)))
    for image, own, target in zip(batch.image[:, 0, 2, 2], batch.index.tolist(), batch.target, strict=True):
        share = target[TRAIN_LABELS[own]].item()
        partners = [own] if share > 0.9999 else []
        partners += [
            other
            for other, label in enumerate(TRAIN_LABELS)
            if label != TRAIN_LABELS[own]
            and target[label] > 0
            and abs(share * own + (1 - share) * other - image) < 1e-3
        ]
        assert partners, (own, image, target)


def test_each_mix_of_an_image_is_the_same_whenever_it_is_drawn() -> None:
    data = made(mix=MixUp(count=3), batch_size=5, seed=1)
    assert data.view_count == 3
    seen: dict[tuple[int, int], float] = {}
    for epoch in range(4):
        for batch in batches_of_epoch(data, epoch):
            for index, view, level in zip(batch.index, batch.view, batch.image[:, 0, 2, 2], strict=True):
                pair = int(index), int(view)
                assert seen.setdefault(pair, level.item()) == level.item()
    assert len(seen) > 40
    other = made(mix=MixUp(count=3), batch_size=7, seed=2)  # another run
    index, view = torch.tensor(list(seen)).T
    assert other.make_batch(index, view=view).image[:, 0, 2, 2].tolist() == list(seen.values())


def test_partners_are_training_images_alone() -> None:
    data = made(mix=MixUp(count=50), val_size=12)
    maker = data._batch_makers[True]
    assert maker._mixes is not None
    assert set(maker._mixes.partner.tolist()) == set(data.train_positions.tolist())


@pytest.mark.parametrize("count", [None, 4])
def test_labels_are_mixed_as_the_images_are(count: int | None) -> None:
    for batch in batches_of_epoch(made(mix=MixUp(count=count), batch_size=8)):
        check_mixed(batch)
        assert batch.unmixed is None


def test_images_before_mixing_are_kept_where_the_hard_loss_is_on_them() -> None:
    plain = batches_of_epoch(made(views=Shift(1)))
    mixed = batches_of_epoch(made(views=Shift(1), mix=MixUp(count=None, hard_loss="unmixed")))
    for ours, theirs in zip(mixed, plain, strict=True):
        assert ours.target is None
        assert torch.equal(ours.unmixed, theirs.image)
        assert not torch.equal(ours.image, theirs.image)


def test_live_mixes_are_within_the_images_of_a_step() -> None:
    """A loader may yield the batches of several steps as one."""
    one = [batch.image for batch in batches_of_epoch(made(mix=MixUp(count=None), batch_size=4))]
    data = made(mix=MixUp(count=None), batch_size=4)
    data.batches_at_once = 3
    several = [batch.image for batch in batches_of_epoch(data)]
    assert torch.equal(torch.cat(one), torch.cat(several))


@pytest.mark.parametrize("mix", [MixUp(count=3), CutMix(count=3), MixUp(count=None)])
def test_loader_workers_change_no_mix(mix: Mix, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batches_of_epoch(made(mix=mix, views=Shift(1), batch_size=10))
    monkeypatch.setattr("kd_lightning.data.batches.RESIDENT_BYTES", 10)
    for workers in (0, 1):
        found = batches_of_epoch(made(mix=mix, views=Shift(1), batch_size=10, num_workers=workers))
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours.image, theirs.image)
            assert torch.equal(ours.target, theirs.target)


def test_evaluated_images_are_not_mixed() -> None:
    data = made(mix=MixUp(), val_size=4)
    batch = data.make_batch(data.val_positions)
    assert batch.target is None
    torch.testing.assert_close(batch.image[:, 0, 2, 2], batch.index.float())


def test_cached_logits_are_of_one_set_of_mixes() -> None:
    digests = {
        made(**options).input_digest()
        for options in (
            {},
            {"mix": MixUp()},
            {"mix": MixUp(seed=1)},
            {"mix": CutMix()},
            {"mix": MixUp(), "train_size": 20},
        )
    }
    assert len(digests) == 5
    assert made(mix=MixUp(hard_loss="unmixed")).input_digest() in digests  # the labels are not in the cache


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"alpha": 0.0}, "alpha: 0.0 found, a number above 0 expected"),
        ({"count": 0}, "count: 0 found, at least 1 expected, or null to mix every batch anew"),
        ({"hard_loss": "both"}, "hard_loss: both found, mixed or unmixed expected"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        CutMix(**options)
