"""What all data modules share: the loader deals indices, the device deals images."""

import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from kd_lightning.batch import Batch
from kd_lightning.data.views import Identity, ViewFamily
from kd_lightning.errors import UserError

SEED_SPACING = 1_000_003
"""Between two seeds' streams: epoch e of seed s draws from stream s * SEED_SPACING + e, which no other pair shares."""


class ImageSet(NamedTuple):
    """One part of a dataset, in memory: image uint8 (N, C, H, W), label int64 (N,)."""

    image: Tensor
    label: Tensor

    def to(self, device: torch.device) -> "ImageSet":
        """Copy to a device, or return itself where it is there already."""
        return ImageSet(self.image.to(device), self.label.to(device))


class _Indices(Dataset[Tensor]):
    """Deals out places in an image set, a whole batch at a time."""

    def __init__(self, positions: Tensor) -> None:
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: int) -> Tensor:
        return self.positions[item]

    def __getitems__(self, items: list[int]) -> Tensor:
        return self.positions[torch.tensor(items)]


def _as_dealt(indices: Any) -> Any:
    return indices


class ClassificationDataModule(LightningDataModule):
    """A dataset that fits in memory as one uint8 tensor.

    A `DataLoader` yields int64 (B,) indices; `on_after_batch_transfer` turns them into a `Batch` on the device: one
    gather, the view, the normalisation. A subclass says where its images come from (`load`) and what its classes
    and images are (`class_names`, `image_shape`).

    The order of the training images and the view of each are functions of the seed and the epoch alone: the same
    on every number of workers and devices.

    The training set is narrowed in this order: `val_size` images are split off, stratified; of the rest the first
    `train_size` are kept, in file order; of these the classes asked for. Validation and test keep every class.

    Args:
        mean: per channel (or one for all), subtracted from pixels in [0, 1].
        std: per channel (or one for all), divided by; above 0.
        views: augmentation of the training images; none by default.
        train_size: keep only the first so many training images; all by default.
        val_size: training images held out for validation; 0 for none: then the last epoch is the result.
        omit_classes: numbers of the classes left out of training.
        only_classes: numbers of the only classes kept in training; empty for all.
        batch_size: training images a step, on each device.
        eval_batch_size: images a step in validation, test and prediction.
        num_workers: loader processes; indices need none.
        shuffle: whether each epoch has its own order; else file order.
        seed: of order and views; by default that of `seed_everything`.
        split_seed: of the validation split, so that runs of different seeds hold out the same images.

    Raises:
        UserError: an option that does not fit the data.
    """

    class_names: ClassVar[Sequence[str]]
    image_shape: tuple[int, int, int]
    """(C, H, W)."""

    def __init__(
        self,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        views: ViewFamily | None = None,
        train_size: int | None = None,
        val_size: int = 0,
        omit_classes: Sequence[int] = (),
        only_classes: Sequence[int] = (),
        batch_size: int = 128,
        eval_batch_size: int = 1000,
        num_workers: int = 0,
        shuffle: bool = True,
        seed: int | None = None,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if value < 1:
                raise UserError(f"{name}: {value} found, at least 1 expected")
        if omit_classes and only_classes:
            raise UserError("omit_classes and only_classes: both found, one of them expected")
        if not all(s > 0 for s in std):
            raise UserError(f"std: {list(std)} found, values above 0 expected")
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.views = views or Identity()
        self.train_size = train_size
        self.val_size = val_size
        self.omit_classes, self.only_classes = tuple(omit_classes), tuple(only_classes)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers = num_workers
        self.shuffle = shuffle
        self.seed = seed
        self.split_seed = split_seed
        self._parts: dict[bool, ImageSet] = {}  # True: training (as the views want it), False: test
        self._on_device: dict[tuple[bool, torch.device], ImageSet] = {}
        self._epoch_views: tuple[int, Tensor] | None = None

    @abstractmethod
    def load(self, train: bool) -> ImageSet:
        """Read the whole training set, or the whole test set, in file order."""

    @property
    def num_classes(self) -> int:
        """How many classes the dataset has, left out of training or not."""
        return len(self.class_names)

    @property
    def train_count(self) -> int:
        """How many images the whole training set has, before it is narrowed; known after setup."""
        return len(self._parts[True].label)

    @property
    def missing_classes(self) -> tuple[int, ...]:
        """The classes that training does not see, ascending."""
        kept = self.only_classes or range(self.num_classes)
        return tuple(c for c in range(self.num_classes) if c not in kept or c in self.omit_classes)

    def setup(self, stage: str) -> None:
        """Load the parts that the stage needs, and choose the training and validation images."""
        for name, values in {"mean": self.mean, "std": self.std}.items():
            if len(values) not in (1, self.image_shape[0]):
                raise UserError(
                    f"{name}: {len(values)} values found, 1 or {self.image_shape[0]} expected (the channels)"
                )
        if stage == "validate" and not self.val_size:
            raise UserError("val_size: 0 found, at least 1 expected to validate (images held out of the training set)")
        if stage in ("fit", "validate") and True not in self._parts:
            train = self._checked(self.load(train=True), "training")
            self.train_positions, self.val_positions = self._split(train.label)
            self._parts[True] = ImageSet(self.views.prepare(train.image), train.label)
        if stage in ("test", "predict") and False not in self._parts:
            self._parts[False] = self._checked(self.load(train=False), "test")

    def _checked(self, part: ImageSet, name: str) -> ImageSet:
        """Refuse now what would pass silently, or fail obscurely, in a loss or a metric."""
        image, label = part
        if image.dtype != torch.uint8 or image.shape[1:] != self.image_shape:
            found = f"{image.dtype} {tuple(image.shape)}".removeprefix("torch.")
            raise UserError(
                f"{name} images: {found} found, uint8 (N, {', '.join(map(str, self.image_shape))}) expected"
            )
        if len(label) != len(image):
            raise UserError(f"{name} labels: {len(label)} found, {len(image)} expected (one an image)")
        if len(label) and (label.min() < 0 or label.max() >= self.num_classes):
            found = f"{label.min()} to {label.max()}"
            raise UserError(f"{name} labels: {found} found, 0 to {self.num_classes - 1} expected (the class names)")
        return ImageSet(image, label.long())

    def _split(self, label: Tensor) -> tuple[Tensor, Tensor]:
        unknown = {*self.omit_classes, *self.only_classes} - set(range(self.num_classes))
        if unknown:
            raise UserError(
                f"omit_classes / only_classes: {sorted(unknown)} found, classes 0 to {self.num_classes - 1} expected"
            )
        if not 0 <= self.val_size < len(label):
            raise UserError(f"val_size: {self.val_size} found, 0 to {len(label) - 1} expected")
        val = _stratified(label, self.val_size, torch.Generator().manual_seed(self.split_seed))
        rest = torch.ones(len(label), dtype=torch.bool)
        rest[val] = False
        train = rest.nonzero().squeeze(1)
        if self.train_size is not None:
            if not 1 <= self.train_size <= len(train):
                raise UserError(
                    f"train_size: {self.train_size} found, 1 to {len(train)} expected (the training images)"
                )
            train = train[: self.train_size]
        if self.missing_classes:
            train = train[~torch.isin(label[train], torch.tensor(self.missing_classes))]
        if not len(train):
            raise UserError(
                f"omit_classes / only_classes: classes {list(self.missing_classes)} left out leave no image"
            )
        return train, val

    def _loader(self, positions: Tensor, batch_size: int, sampler: DistributedSampler[Tensor] | None = None) -> Any:
        return DataLoader(
            _Indices(positions),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_as_dealt,
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> Any:
        """Deal the training indices, each device its share; the order depends on seed and epoch alone."""
        trainer = self.trainer
        sampler: DistributedSampler[Tensor] = DistributedSampler(
            _Indices(self.train_positions),
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            shuffle=self.shuffle,
            seed=self._seed * SEED_SPACING,
        )
        return self._loader(self.train_positions, self.batch_size, sampler)

    def val_dataloader(self) -> Any:
        """Deal the held-out indices; no loader at all where none are held out."""
        return self._loader(self.val_positions, self.eval_batch_size) if len(self.val_positions) else []

    def test_dataloader(self) -> Any:
        """Deal the indices of the test set."""
        return self._loader(torch.arange(len(self._parts[False].label)), self.eval_batch_size)

    def predict_dataloader(self) -> Any:
        """Deal the indices of the test set."""
        return self.test_dataloader()

    @property
    def _seed(self) -> int:
        # Lightning leaves the seed of seed_everything here, the same for every process of a run.
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Batch:
        """Turn a batch of indices, already on the device, into images there."""
        trainer = self.trainer
        assert trainer is not None  # it is the trainer that calls this
        train = not (trainer.testing or trainer.predicting)
        view = self._views_of_epoch(trainer.current_epoch, batch.device)[batch] if trainer.training else None
        return self.deal(batch, train=train, view=view)

    def deal(self, index: Tensor, train: bool = True, view: Tensor | None = None) -> Batch:
        """Gather images on the device of `index`, under their views, normalised.

        Args:
            index: int64 (B,), into the whole training set, or the test set.
            train: which of the two; it must have been set up.
            view: int64 (B,); untouched images by default.
        """
        part = self._part_on(train, index.device)
        views = self.views if train else Identity()
        view = torch.zeros_like(index) if view is None else view
        image = self._normalise(views.gather(part.image, index, view))
        return Batch(image, part.label[index], index, view)

    def _part_on(self, train: bool, device: torch.device) -> ImageSet:
        if (train, device) not in self._on_device:
            self._on_device[train, device] = self._parts[train].to(device)
        return self._on_device[train, device]

    def _normalise(self, image: Tensor) -> Tensor:
        if self.mean.device != image.device:
            self.mean, self.std = self.mean.to(image.device), self.std.to(image.device)
        scale = 1 / (255 * self.std)
        return torch.addcmul(-(self.mean / self.std).view(-1, 1, 1), image.float(), scale.view(-1, 1, 1))

    def _views_of_epoch(self, epoch: int, device: torch.device) -> Tensor:
        """The view that each training image gets in an epoch: int64 (N,)."""
        if self._epoch_views is None or self._epoch_views[0] != epoch:
            generator = torch.Generator().manual_seed(self._seed * SEED_SPACING + epoch)
            views = self.views.draw(len(self._parts[True].label), generator)
            self._epoch_views = epoch, views.to(device)
        return self._epoch_views[1]


def _stratified(label: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Pick `size` places at random, the classes in the proportions of the whole: int64 (size,), ascending."""
    order = torch.randperm(len(label), generator=generator)
    # Spread each class evenly over [0, 1); the first `size` places then hold every class in proportion.
    spread = torch.empty(len(label), dtype=torch.float64)
    for c in label.unique():
        members = order[label[order] == c]
        spread[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return spread.argsort(stable=True)[:size].sort().values
