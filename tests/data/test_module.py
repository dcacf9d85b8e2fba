"""Which images a data module trains and validates on, and which options it refuses."""

from typing import Any

import pytest
import torch

from kd_lightning.data import ImageSet, Shift
from kd_lightning.errors import UserError
from tests.data.made import TEST_LABELS, TRAIN_LABELS, MadeDataModule, made


def labels_at(positions: torch.Tensor) -> list[int]:
    return torch.tensor(TRAIN_LABELS)[positions].tolist()


def test_without_options_training_has_every_image_and_validation_none() -> None:
    data = made()
    assert data.train_positions.tolist() == list(range(24))
    assert data.train_count == 24
    assert data.val_dataloader() == []
    assert data.missing_classes == ()


def test_training_and_validation_are_disjoint_and_together_the_whole() -> None:
    data = made(val_size=7)
    train, val = set(data.train_positions.tolist()), set(data.val_positions.tolist())
    assert len(val) == 7
    assert not train & val
    assert train | val == set(range(24))


def test_validation_has_the_classes_in_their_proportions() -> None:
    assert sorted(labels_at(made(val_size=6).val_positions)) == [0, 0, 0, 1, 1, 2]
    assert sorted(labels_at(made(val_size=12).val_positions)) == [0] * 6 + [1] * 4 + [2] * 2


def test_the_split_seed_alone_chooses_the_validation_images() -> None:
    first, other_run, other_split = (
        made(val_size=6, seed=seed, split_seed=split_seed).val_positions.tolist()
        for seed, split_seed in ((0, 0), (5, 0), (0, 1))
    )
    assert first == other_run == sorted(first)
    assert first != other_split


def test_train_size_keeps_the_first_images_in_file_order() -> None:
    assert made(train_size=5).train_positions.tolist() == [0, 1, 2, 3, 4]


def test_classes_are_left_out_of_the_first_images_not_counted_before() -> None:
    data = made(train_size=7, omit_classes=[2])
    assert data.train_positions.tolist() == [0, 1, 2, 3, 4, 6]  # not 7 images without class 2
    assert data.missing_classes == (2,)
    assert data.train_count == 24


def test_the_first_images_are_those_that_validation_left() -> None:
    data = made(val_size=6, train_size=10, omit_classes=[1])
    left = [i for i in range(24) if i not in data.val_positions.tolist()]
    assert data.train_positions.tolist() == [i for i in left[:10] if TRAIN_LABELS[i] != 1]


def test_only_classes_keeps_these_and_names_the_others_missing() -> None:
    data = made(only_classes=[2, 1], train_size=6)
    assert data.train_positions.tolist() == [2, 4, 5]
    assert data.missing_classes == (0,)


def test_validation_and_test_keep_the_classes_that_training_leaves_out() -> None:
    data = made(val_size=6, omit_classes=[0, 2])
    assert set(labels_at(data.train_positions)) == {1}
    assert set(labels_at(data.val_positions)) == {0, 1, 2}
    data.setup("test")
    assert [data.make_batch(index, train=False).label.tolist() for index in data.test_dataloader()] == [TEST_LABELS]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 25}, "train_size: 25 found, 1 to 24 expected"),
        ({"train_size": 19, "val_size": 6}, "train_size: 19 found, 1 to 18 expected"),
        ({"train_size": 0}, "train_size: 0 found, 1 to 24 expected"),
        ({"val_size": 24}, "val_size: 24 found, 0 to 23 expected"),
        ({"val_size": -1}, "val_size: -1 found, 0 to 23 expected"),
        ({"omit_classes": [1, 3]}, r"\[3\] found, classes 0 to 2 expected"),
        ({"only_classes": [-1]}, r"\[-1\] found, classes 0 to 2 expected"),
        ({"omit_classes": [0, 1, 2]}, r"classes \[0, 1, 2\] left out leave no image"),
        ({"only_classes": [2], "train_size": 5}, r"classes \[0, 1\] left out leave no image"),
    ],
)
def test_options_that_do_not_fit_the_data_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        made(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"omit_classes": [0], "only_classes": [1]}, "omit_classes and only_classes: both found"),
        ({"std": [0.5, 0.0]}, r"std: \[0.5, 0.0\] found, values above 0 expected"),
        ({"batch_size": 0}, "batch_size: 0 found, at least 1 expected"),
        ({"eval_batch_size": -2}, "eval_batch_size: -2 found, at least 1 expected"),
    ],
)
def test_options_that_fit_no_data_are_refused_before_any_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MadeDataModule(**options)


def test_each_part_is_read_once_and_for_a_test_the_training_set_to_compare_it_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[bool] = []
    load = MadeDataModule.load

    def counted(self: MadeDataModule, train: bool) -> ImageSet:
        read.append(train)
        return load(self, train)

    monkeypatch.setattr(MadeDataModule, "load", counted)
    data = MadeDataModule(val_size=6)
    data.setup("predict")
    assert read == [False]
    for stage in ("test", "predict", "test"):
        data.setup(stage)
    assert read == [False, True]
    read.clear()
    data = MadeDataModule(val_size=6)
    for stage in ("fit", "validate", "fit"):
        data.setup(stage)
    assert read == [True]
    for stage in ("test", "test"):
        data.setup(stage)
    assert read == [True, False]


class Copies(MadeDataModule):
    """Test images 1 and 3 are training images 0 and 6; training images 0 and 1 are the same, as are 2 and 3."""

    def load(self, train: bool) -> ImageSet:
        part = super().load(train)
        image = part.image.clone()
        if train:
            image[[1, 3]] = image[[0, 2]]
        else:
            image[[1, 3]] = super().load(True).image[[0, 6]]
        return ImageSet(image, part.label)


def test_copies_between_parts_are_counted_for_any_data_in_memory(caplog: pytest.LogCaptureFixture) -> None:
    Copies().setup("test")
    first = "Copies: 2 of the 6 test images are, pixel for pixel, among the training images too: the figures of a test "
    assert [record.getMessage() for record in caplog.records] == [f"{first}are too good"]
    caplog.clear()
    data = Copies(val_size=12)
    data.setup("fit")
    held_out = set(data.val_positions.tolist())
    expected = sum((places[0] in held_out) != (places[1] in held_out) for places in ((0, 1), (2, 3)))
    assert expected
    assert [record.getMessage().split(" images")[0] for record in caplog.records] == [
        f"Copies: {expected} of the 12 training"
    ]


def test_a_training_set_that_is_gone_is_no_hindrance_to_a_test() -> None:
    class Gone(MadeDataModule):
        def load(self, train: bool) -> ImageSet:
            if train:
                raise RuntimeError("gone")
            return super().load(train)

    data = Gone()
    data.setup("test")
    assert data.make_batch(torch.tensor([0]), train=False).label.tolist() == TEST_LABELS[:1]


def test_a_class_that_the_test_set_lacks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class More(MadeDataModule):
        class_names = ("ant", "bee", "cow", *(f"more{number}" for number in range(7)))

    data = More()
    for _ in range(2):
        data.setup("test")
    assert [record.getMessage() for record in caplog.records] == [
        "More: no test image of more0, more1, more2, more3, more4 and 2 more, which a test then says nothing about"
    ]


@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_normalisation_of_other_channels_is_refused_at_setup(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: 3 values found, 1 expected"):
        MadeDataModule(**{name: (0.5, 0.5, 0.5)}).setup("fit")


def test_to_validate_without_held_out_images_is_refused() -> None:
    with pytest.raises(UserError, match="val_size: 0 found, at least 1 expected to validate"):
        MadeDataModule().setup("validate")


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (torch.zeros(4, 1, 6, 6), [0, 1, 2, 0], r"training images: float32 \(4, 1, 6, 6\) found, uint8 \(N, 1, 6, 6\)"),
        (torch.zeros(4, 6, 6, dtype=torch.uint8), [0, 1, 2, 0], r"uint8 \(4, 6, 6\) found"),
        (torch.zeros(4, 1, 6, 6, dtype=torch.uint8), [0, 1, 3, 0], "training labels: 0 to 3 found, 0 to 2 expected"),
        (torch.zeros(4, 1, 6, 6, dtype=torch.uint8), [0, 1, -1, 0], "training labels: -1 to 1 found, 0 to 2 expected"),
        (torch.zeros(4, 1, 6, 6, dtype=torch.uint8), [0, 1], "training labels: 2 found, 4 expected"),
    ],
)
def test_images_and_labels_that_do_not_fit_the_classes_are_refused_at_setup(
    monkeypatch: pytest.MonkeyPatch, image: torch.Tensor, label: list[int], message: str
) -> None:
    monkeypatch.setattr(MadeDataModule, "load", lambda self, train: ImageSet(image, torch.tensor(label)))
    with pytest.raises(UserError, match=message):
        MadeDataModule().setup("fit")


def test_what_is_shown_is_told_by_pixels_size_normalisation_and_views() -> None:
    digests = [
        data.input_digest()
        for data in (
            made(),
            made(mean=[1.0]),
            made(std=[0.5]),
            made(views=Shift(1)),
            made(views=Shift(2)),
        )
    ]
    brighter = made()
    brighter._batch_makers[True].part.image[3, 0, 2, 2] += 1  # one pixel
    assert len({*digests, brighter.input_digest()}) == 6
    assert made(train_size=5, val_size=3, batch_size=2, seed=1).input_digest() == digests[0]
