"""What a data module deals: order, views, shares of several devices, pixels."""

import pytest
import torch
from torch import Tensor

from kd_lightning.data import ImageSet, Shift
from tests.data.made import TEST_LABELS, TRAIN_LABELS, MadeDataModule, batches_of_epoch, made, places_and_views
from tests.data.made import trainer_in as trainer


def indices(loader: object) -> list[int]:
    return torch.cat(list(loader)).tolist()


def test_a_batch_holds_float_images_and_int64_labels_places_and_views() -> None:
    batch = batches_of_epoch(made(batch_size=10, views=Shift(1)))[0]
    assert (batch.image.dtype, tuple(batch.image.shape)) == (torch.float32, (10, 1, 6, 6))
    for tensor in (batch.label, batch.index, batch.view):
        assert (tensor.dtype, tuple(tensor.shape)) == (torch.int64, (10,))


def test_batches_are_full_but_for_the_last() -> None:
    assert [len(batch.label) for batch in batches_of_epoch(made(batch_size=10))] == [10, 10, 4]


def test_the_index_points_into_the_whole_training_set() -> None:
    data = made(val_size=6, omit_classes=[0], batch_size=4)
    for batch in [*batches_of_epoch(data), *(data.make_batch(index) for index in data.val_dataloader())]:
        assert batch.label.tolist() == [TRAIN_LABELS[i] for i in batch.index]
        assert batch.image[:, 0, 2, 2].tolist() == pytest.approx(batch.index.tolist())  # the grey level is the place


def test_a_training_image_is_shown_under_the_view_that_its_batch_names() -> None:
    shift = Shift(1)
    batch = batches_of_epoch(made(views=shift))[0]
    images = MadeDataModule().load(train=True).image
    expected = shift.gather(shift.prepare(images), batch.index, batch.view)
    assert len(batch.view.unique()) > 4
    torch.testing.assert_close(batch.image, expected.float())


def test_an_epoch_deals_every_training_image_once() -> None:
    assert sorted(i for i, _ in places_and_views(made(batch_size=5))) == list(range(24))


def test_order_and_views_are_functions_of_seed_and_epoch_alone() -> None:
    used = made(views=Shift(2), seed=7)
    for epoch in range(3):
        places_and_views(used, epoch)
    torch.manual_seed(123)
    fresh = made(views=Shift(2), seed=7, batch_size=5)  # as a resumed run's
    assert places_and_views(used, 3) == places_and_views(fresh, 3)


def test_order_and_views_differ_between_epochs_and_between_seeds() -> None:
    data, other = made(views=Shift(2), seed=7), made(views=Shift(2), seed=1007)
    runs = [places_and_views(data, 0), places_and_views(data, 1), places_and_views(other, 0)]
    orders = [[i for i, _ in run] for run in runs]
    views = [[view for _, view in sorted(run)] for run in runs]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert orders[a] != orders[b]
        assert views[a] != views[b]


def test_the_seed_is_that_of_seed_everything_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert places_and_views(made(views=Shift(2))) == places_and_views(made(views=Shift(2), seed=7))


def test_without_shuffling_every_epoch_is_in_file_order() -> None:
    data = made(shuffle=False, omit_classes=[0], batch_size=5)
    file_order = [i for i, label in enumerate(TRAIN_LABELS) if label != 0]
    for epoch in (0, 1):
        assert [i for i, _ in places_and_views(data, epoch)] == file_order


def test_loader_processes_change_neither_order_nor_views() -> None:
    alone, helped = (made(views=Shift(2), batch_size=5, num_workers=workers) for workers in (0, 2))
    assert places_and_views(alone, 1) == places_and_views(helped, 1)


def test_two_devices_share_the_images_and_show_each_under_the_view_that_one_device_would() -> None:
    data = made(views=Shift(2), batch_size=5)
    first, second = (places_and_views(data, epoch=2, rank=rank, world_size=2) for rank in (0, 1))
    assert len(first) == len(second) == 12
    assert sorted(first + second) == sorted(places_and_views(data, epoch=2))


@pytest.mark.parametrize("state", ["validating", "sanity_checking"])
def test_validation_shows_the_untouched_training_images(state: str) -> None:
    data = made(views=Shift(2), val_size=6, eval_batch_size=4)
    data.trainer = trainer(state)
    batches = [data.on_after_batch_transfer(index, 0) for index in data.val_dataloader()]
    assert torch.cat([b.index for b in batches]).tolist() == data.val_positions.tolist()
    for batch in batches:
        assert not batch.view.any()
        torch.testing.assert_close(batch.image, batch.index.float().view(-1, 1, 1, 1).expand(-1, 1, 6, 6))


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_test_and_prediction_show_the_untouched_test_set_in_file_order(stage: str) -> None:
    data = made(stage, views=Shift(2), eval_batch_size=4)
    loader = data.test_dataloader() if stage == "test" else data.predict_dataloader()
    batches = [data.on_after_batch_transfer(index, 0) for index in loader]
    assert [batch.index.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    assert torch.cat([batch.label for batch in batches]).tolist() == TEST_LABELS
    levels = torch.arange(200.0, 206).view(-1, 1, 1, 1).expand(-1, 1, 6, 6)
    torch.testing.assert_close(torch.cat([batch.image for batch in batches]), levels)


def test_black_becomes_minus_mean_over_std_and_white_one_minus_mean_over_std(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).repeat(1, 2, 1, 1)
    monkeypatch.setattr(MadeDataModule, "load", lambda self, train: ImageSet(pixels, torch.tensor([0])))
    monkeypatch.setattr(MadeDataModule, "image_shape", (2, 1, 2))
    per_channel = made(mean=(0.5, 0.1), std=(0.5, 0.4)).make_batch(torch.tensor([0])).image
    torch.testing.assert_close(per_channel, torch.tensor([[[[-1.0, 1.0]], [[-0.25, 2.25]]]]))
    one_for_all: Tensor = made(mean=(0.1307,), std=(0.3081,)).make_batch(torch.tensor([0])).image
    for channel in (0, 1):
        assert one_for_all[0, channel, 0].tolist() == pytest.approx([-0.1307 / 0.3081, 0.8693 / 0.3081], abs=1e-6)


def test_the_loaders_deal_whole_batches_of_bare_places() -> None:
    data = made(val_size=6, eval_batch_size=4)
    assert [tuple(index.shape) for index in data.val_dataloader()] == [(4,), (2,)]
    assert indices(data.val_dataloader()) == data.val_positions.tolist()


def test_neighbouring_seeds_share_no_order_and_no_views() -> None:
    def orders(seed: int) -> set[tuple[int, ...]]:
        return {tuple(torch.cat([b.index for b in batches_of_epoch(made(seed=seed), e)]).tolist()) for e in range(4)}

    assert not orders(0) & orders(1)
    assert len(orders(0)) == 4


@pytest.mark.parametrize(("batch_size", "sizes"), [(23, [23]), (5, [5, 5, 5, 5, 4]), (1, [1] * 24), (24, [24])])
def test_a_last_batch_of_a_single_image_is_left_out(batch_size: int, sizes: list[int]) -> None:
    batches = batches_of_epoch(made(batch_size=batch_size))
    assert [len(batch.label) for batch in batches] == sizes
