"""A dataset small enough to know by heart: training image i is all grey level i, test image i all 200 + i."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from kd_lightning.batch import Batch
from kd_lightning.data import ClassificationDataModule, ImageSet

TRAIN_LABELS = [0, 0, 1, 0, 1, 2] * 4  # 12 of class 0, 8 of class 1, 4 of class 2
TEST_LABELS = [0, 1, 2, 2, 1, 0]


class MadeDataModule(ClassificationDataModule):
    class_names = ("ant", "bee", "cow")
    image_shape = (1, 6, 6)

    def __init__(self, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1 / 255,), **kwargs: Any) -> None:
        super().__init__(mean=mean, std=std, **kwargs)  # as given, a normalised pixel is its grey level

    def load(self, train: bool) -> ImageSet:
        labels, first = (TRAIN_LABELS, 0) if train else (TEST_LABELS, 200)
        levels = torch.arange(first, first + len(labels), dtype=torch.uint8)
        return ImageSet(levels.view(-1, 1, 1, 1).repeat(1, *self.image_shape), torch.tensor(labels))


def made(stage: str = "fit", **kwargs: Any) -> MadeDataModule:
    """Build it, set up for a stage and in the hands of a trainer that is in it."""
    data = MadeDataModule(**kwargs)
    data.setup(stage)
    data.trainer = trainer_in({"fit": "training", "validate": "validating"}.get(stage, f"{stage}ing"))
    return data


def trainer_in(state: str, epoch: int = 0, rank: int = 0, world_size: int = 1) -> Any:
    """Stand in for a trainer: what a data module asks of one, and no more."""
    states = dict.fromkeys(("training", "validating", "sanity_checking", "testing", "predicting"), False)
    return SimpleNamespace(
        **{**states, state: True}, current_epoch=epoch, global_rank=rank, world_size=world_size, datamodule=None
    )


def batches_of_epoch(data: MadeDataModule, epoch: int = 0, rank: int = 0, world_size: int = 1) -> list[Batch]:
    """Deal one epoch of training batches, as a trainer does."""
    data.trainer = trainer_in("training", epoch, rank, world_size)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [data.on_after_batch_transfer(index, 0) for index in loader]


def places_and_views(data: MadeDataModule, epoch: int = 0, **kwargs: int) -> list[tuple[int, int]]:
    """(index, view) of one epoch's training images, in the order they are dealt."""
    batches = batches_of_epoch(data, epoch, **kwargs)
    return [pair for batch in batches for pair in zip(batch.index.tolist(), batch.view.tolist(), strict=True)]
