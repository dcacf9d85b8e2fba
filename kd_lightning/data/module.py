"""What all data modules share: the loader deals indices, the device deals images."""

import hashlib
import math
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from multiprocessing import get_all_start_methods, get_start_method
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from kd_lightning.batch import Batch, batch_sizes
from kd_lightning.data.batches import RESIDENT_BYTES, Dealer
from kd_lightning.data.copies import PAIRS, digests_of, warn_of_classes_without_test_images, warn_of_copies
from kd_lightning.data.sets import ImageSet, Indices, StreamedSet, stratified
from kd_lightning.data.views import Identity, ViewFamily
from kd_lightning.errors import UserError

SEED_SPACING = 1_000_003
"""Between two seeds' streams: epoch e of seed s draws from stream s * SEED_SPACING + e, which no other pair shares."""


def _as_dealt(indices: Any) -> Any:
    return indices


class _ResumingSampler(DistributedSampler[Any]):
    """Deals, once, only what an interrupted epoch still has to deal.

    Attributes:
        skip: how many images this process was dealt before the interruption.
    """

    skip = 0

    def __iter__(self) -> Iterator[Any]:
        begin, self.skip = self.skip, 0
        return islice(super().__iter__(), begin, None)


class _Shares(DistributedSampler[Any]):
    """Deals each process its share of an evaluation set, batch by batch: every image once, and none twice.

    All processes get the same number of batches, for some networks wait for each other in each batch. A process whose
    share is one image larger than another's may get a batch of one image more than `batch_size`.
    """

    def __init__(self, count: int, batch_size: int, processes: int, rank: int) -> None:
        super().__init__(range(count), processes, rank, shuffle=False)  # type: ignore[arg-type]  # all it needs is len
        smallest, largest = count // processes, math.ceil(count / processes)
        batches = min(math.ceil(largest / batch_size), smallest)
        self._batches = [part.tolist() for part in torch.arange(rank, count, processes).tensor_split(batches)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class ClassificationDataModule(LightningDataModule):
    """A dataset of images, each of one class.

    A `DataLoader` yields int64 (B,) indices; `on_after_batch_transfer` turns them into a `Batch` on the device: one
    gather, the view, the normalisation. Images too many to keep (`StreamedSet`) come through the loader's workers
    and take the same road. A subclass says where its images come from (`load`) and what its classes and images are
    (`class_names`, `image_shape`).

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
        num_workers: loader processes; indices need none. Sets above 2 GiB, and streamed ones, are read by them.
        shuffle: whether each epoch has its own order; else file order.
        seed: of order and views; by default that of `seed_everything`.
        split_seed: of the validation split, so that runs of different seeds hold out the same images.

    Raises:
        UserError: an option that does not fit the data.
    """

    class_names: Sequence[str] = ()
    """Known before setup: networks are built to fit their number."""
    image_shape: tuple[int, int, int] = (0, 0, 0)
    """(C, H, W) of the images that the network gets."""
    batches_at_once = 1
    """How many training batches the loader deals as one; set before training by a module that takes them apart."""
    test_names: Sequence[str] | None = None
    """Of the test images, where each has a name of its own; known after setup for a test."""

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
        self._dealers: dict[bool, Dealer] = {}  # True: of the training set, False: of the test set
        self._epoch_views: tuple[int, Tensor] | None = None
        self._resume_at: tuple[int, int] | None = None
        self._compared: set[object] = set()  # what was compared already, so that each warning is given once

    @abstractmethod
    def load(self, train: bool) -> ImageSet | StreamedSet:
        """Read the whole training set, or the whole test set, in file order."""

    def held_out(self, label: Tensor) -> Tensor:
        """Choose the validation images among the training set's labels, int64 (N,): their places, ascending."""
        if not 0 <= self.val_size < len(label):
            raise UserError(f"val_size: {self.val_size} found, 0 to {len(label) - 1} expected")
        return stratified(label, self.val_size, torch.Generator().manual_seed(self.split_seed))

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images as `load` gives them, before they are resized to `image_shape`."""
        return self.image_shape

    @property
    def fingerprint(self) -> str:
        """What tells this data from other data under the same options; empty where the options say it all."""
        return ""

    def shown_digest(self, train: bool = True) -> str:
        """Tell what `deal` makes of each image and view of the training set, or of the test set, from all else.

        Known after setup. Empty for a streamed set, whose pixels would have to be read for it.
        """
        part = self._dealers[train].part
        if isinstance(part, StreamedSet):
            return ""
        result = hashlib.sha256(part.image.contiguous().numpy().data)
        shapes = self.stored_shape, self.image_shape
        result.update(repr((type(self), *shapes, self.mean.tolist(), self.std.tolist(), self.views)).encode())
        return result.hexdigest()

    def content_digest(self, train: bool) -> str:
        """A digest of the images and labels of the training set or of the test set; known after setup.

        Of a streamed set, whose pixels would have to be read for it, it is the `fingerprint`.
        """
        part = self._dealers[train].part
        if isinstance(part, StreamedSet):
            return self.fingerprint
        digest = hashlib.sha256(part.image.contiguous().numpy().data)
        digest.update(part.label.numpy().data)
        return digest.hexdigest()

    def test_digest(self) -> str:
        """A digest of the test images, their labels and class names, and how they are normalised; after setup."""
        shown = [list(self.class_names), self.stored_shape, self.image_shape, self.mean.tolist(), self.std.tolist()]
        return hashlib.sha256(f"{self.content_digest(train=False)} {shown}".encode()).hexdigest()

    @property
    def test_count(self) -> int:
        """How many images the test set has; known after setup."""
        return len(self._dealers[False].part.label)

    @property
    def num_classes(self) -> int:
        """How many classes the dataset has, left out of training or not."""
        return len(self.class_names)

    @property
    def train_count(self) -> int:
        """How many images the whole training set has, before it is narrowed; known after setup."""
        return len(self._dealers[True].part.label)

    @property
    def missing_classes(self) -> tuple[int, ...]:
        """The classes that training does not see, ascending."""
        kept = self.only_classes or range(self.num_classes)
        return tuple(c for c in range(self.num_classes) if c not in kept or c in self.omit_classes)

    def setup(self, stage: str) -> None:
        """Load the parts that the stage needs, and choose the training and validation images."""
        self.check_normalisation()
        if stage in ("fit", "validate") and True not in self._dealers:
            part = self._checked(self.load(train=True), "training")
            self._dealers[True] = self._dealer(part, self.views)
            self.train_positions, self.val_positions = self._split(part.label)
        if stage == "validate" and not len(self.val_positions):
            raise UserError("val_size: 0 found, at least 1 expected to validate (images held out of the training set)")
        if stage in ("test", "predict") and False not in self._dealers:
            self._dealers[False] = self._dealer(self._checked(self.load(train=False), "test"), Identity())
        if stage in ("fit", "test") and getattr(self.trainer, "global_rank", 0) == 0:
            self._compare_parts(stage)

    def _compare_parts(self, stage: str) -> None:
        """Warn of images that two parts share, of each two once, and of classes that the test set lacks."""
        place = str(getattr(self, "root", type(self).__name__))
        pairs = PAIRS if stage == "fit" else PAIRS[1:]
        if not self._compared.issuperset(pairs):
            self._compared |= warn_of_copies(place, self.part_digests(), [p for p in pairs if p not in self._compared])
        if stage == "test" and "classes" not in self._compared:
            self._compared.add("classes")
            warn_of_classes_without_test_images(place, self._dealers[False].part.label, self.class_names)

    def part_digests(self) -> dict[str, list[bytes]]:
        """Digest the pixels of each image for `training`, `validation` and `test`, to find copies between them.

        A part is left out where that would be costly or is impossible: one that is streamed, one above 2 GiB, the
        test set before it is set up, and a training set that cannot be read.
        """
        test = self._digests(self._dealers[False].part if False in self._dealers else None, train=False)
        if not test and (True not in self._dealers or not len(self.val_positions)):
            return {}  # nothing to compare
        found = {"test": test}
        with suppress(Exception):  # a test needs no training set: whatever is wrong with it, the test goes on
            if True in self._dealers:
                part, places = self._dealers[True].part, (self.train_positions, self.val_positions)
            else:
                part = self._checked(self.load(train=True), "training")
                places = self._split(part.label)
            if every := self._digests(part, train=True):
                for name, positions in zip(("training", "validation"), places, strict=True):
                    found[name] = [every[place] for place in positions.tolist()]
        return {name: digests for name, digests in found.items() if digests}

    def _digests(self, part: ImageSet | StreamedSet | None, train: bool) -> list[bytes]:
        """Digest of each image of a part, in file order; none where they are not known."""
        if not isinstance(part, ImageSet) or part.image.nbytes > RESIDENT_BYTES:
            return []
        return digests_of(part.image)

    def _dealer(self, part: ImageSet | StreamedSet, views: ViewFamily) -> Dealer:
        return Dealer(part, views, self.mean, self.std, self.image_shape)

    def check_normalisation(self) -> None:
        """Raise `UserError` unless `mean` and `std` have one value, or one for each channel."""
        channels = self.image_shape[0]
        for name, values in {"mean": self.mean, "std": self.std}.items():
            if len(values) not in (1, channels):
                expected = f"1 or {channels}" if channels > 1 else "1"
                raise UserError(f"{name}: {len(values)} values found, {expected} expected (the channels)")

    def _checked(self, part: ImageSet | StreamedSet, name: str) -> ImageSet | StreamedSet:
        """Refuse now what would pass silently, or fail obscurely, in a loss or a metric."""
        label = part.label
        images = part.read(torch.arange(min(1, len(label)))) if isinstance(part, StreamedSet) else part.image
        if images.dtype != torch.uint8 or images.shape[1:] != self.stored_shape:
            found = f"{images.dtype} {tuple(images.shape)}".removeprefix("torch.")
            raise UserError(
                f"{name} images: {found} found, uint8 (N, {', '.join(map(str, self.stored_shape))}) expected"
            )
        if isinstance(part, ImageSet) and len(label) != len(images):
            raise UserError(f"{name} labels: {len(label)} found, {len(images)} expected (one an image)")
        if len(label) and (label.min() < 0 or label.max() >= self.num_classes):
            found = f"{label.min()} to {label.max()}"
            raise UserError(f"{name} labels: {found} found, 0 to {self.num_classes - 1} expected (the class names)")
        return part._replace(label=label.long())

    def _split(self, label: Tensor) -> tuple[Tensor, Tensor]:
        unknown = {*self.omit_classes, *self.only_classes} - set(range(self.num_classes))
        if unknown:
            raise UserError(
                f"omit_classes / only_classes: {sorted(unknown)} found, classes 0 to {self.num_classes - 1} expected"
            )
        val = self.held_out(label)
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

    def _loader(
        self, train: bool, positions: Tensor, batch_size: int | None, sampler: DistributedSampler[Any] | None = None
    ) -> Any:
        """Make a loader; without a `batch_size`, the sampler gives whole batches."""
        # Images that stay in a memory map are gathered by the workers, where those are forked: others would copy it.
        forked = (get_start_method(allow_none=True) or get_all_start_methods()[0]) == "fork"
        gather = self.num_workers > 0 and forked and not self._dealers[train].is_resident
        leaves_one = batch_size and sampler is not None and sum(batch_sizes(len(sampler), batch_size)) < len(sampler)
        return DataLoader(
            Indices(positions, self._dealers[train].part, gather),
            batch_size=batch_size,
            sampler=sampler,
            drop_last=bool(leaves_one),
            num_workers=self.num_workers,
            collate_fn=_as_dealt,
            generator=torch.Generator(),  # whose draws are not the network's: a resumed run draws as one never stopped
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> Any:
        """Deal the training indices, each device its share; the order depends on seed and epoch alone."""
        trainer = self.trainer
        sampler = _ResumingSampler(
            Indices(self.train_positions, self._dealers[True].part),
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            shuffle=self.shuffle,
            seed=self._seed * SEED_SPACING,
        )
        loader = self._loader(True, self.train_positions, self.batch_size * self.batches_at_once, sampler)
        # Lightning says the epoch when workers fetch already, and leaves out nothing that was dealt before.
        epoch, sampler.skip = self._resume_at or (trainer.current_epoch if trainer else 0, 0)
        sampler.set_epoch(epoch)
        self._resume_at = None
        return loader

    def state_dict(self) -> dict[str, Any]:
        """Where a training is: its epoch, or the next, and how many images of it each process was dealt."""
        trainer: Any = self.trainer
        if trainer is None:
            return {}
        loop = trainer.fit_loop
        epoch, batches = loop.epoch_progress.current.started - 1, loop.epoch_loop.batch_progress.current.processed
        if batches >= trainer.num_training_batches:
            epoch, batches = epoch + 1, 0
        return {
            "epoch": max(0, epoch),
            "dealt": batches * self.batch_size * self.batches_at_once,
            "batch_size": self.batch_size,
            "within_epoch": self._setting() if batches else {},
        }

    def _setting(self) -> dict[str, int]:
        """What a place within an epoch depends on, by the option that sets it."""
        return {
            "train_size": len(self.train_positions),
            "val_size": len(self.val_positions),
            "split_seed": self.split_seed,
            "shuffle": self.shuffle,
            "seed": self._seed,
            "devices": self.trainer.world_size if self.trainer else 1,
            "steps_at_once": self.batches_at_once,
        }

    def check_resumable(self, state_dict: dict[str, Any]) -> None:
        """Compare this data with the data of the training that a checkpoint is to go on from.

        Raises:
            UserError: another batch size; or, once set up, anything else that changes the order of an epoch in which
                the training stopped.
        """
        kept = {"batch_size": state_dict.get("batch_size", self.batch_size)}
        ours = {"batch_size": self.batch_size}
        if self._dealers:
            kept |= state_dict.get("within_epoch", {})
            ours |= self._setting()
        differing = [
            f"{name}: {ours[name]} found, {value} expected"
            for name, value in kept.items()
            if name in ours and ours[name] != value
        ]
        if differing:
            raise UserError(
                f"{'; '.join(differing)}, as in the checkpoint: a resumed training goes on at its place in the epoch; "
                "to change it, train anew, without --ckpt_path"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Note where a resumed training has to begin."""
        if self.trainer and self.trainer.state.fn == TrainerFn.FITTING:
            self.check_resumable(state_dict)
        if "epoch" in state_dict:
            self._resume_at = state_dict["epoch"], state_dict["dealt"]

    def val_dataloader(self) -> Any:
        """Deal the held-out indices; no loader at all where none are held out."""
        return self._evaluation_loader(True, self.val_positions) if len(self.val_positions) else []

    def test_dataloader(self) -> Any:
        """Deal the indices of the test set."""
        return self._evaluation_loader(False, torch.arange(self.test_count))

    def predict_dataloader(self) -> Any:
        """Deal the indices of the test set; Lightning shares them out among processes, each once."""
        return self._loader(False, torch.arange(self.test_count), self.eval_batch_size)

    def _evaluation_loader(self, train: bool, positions: Tensor) -> Any:
        """Deal images to be measured, each of several processes its share.

        Lightning's own sampler would repeat images until all shares are equal, and they would be counted twice.
        """
        trainer = self.trainer
        if trainer is None or trainer.world_size == 1:
            return self._loader(train, positions, self.eval_batch_size)
        if len(positions) < trainer.world_size:
            name = "validation" if train else "test"
            raise UserError(
                f"{name} images: {len(positions)} found, at least {trainer.world_size} expected, one for each process "
                "(--trainer.devices)"
            )
        return self._loader(
            train,
            positions,
            None,
            _Shares(len(positions), self.eval_batch_size, trainer.world_size, trainer.global_rank),
        )

    @property
    def _seed(self) -> int:
        # Lightning leaves the seed of seed_everything here, the same for every process of a run.
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch:
        """Turn a batch of indices, already on the device, into images there; or show those that came with them."""
        trainer = self.trainer
        assert trainer is not None  # it is the trainer that calls this
        index, images = batch if isinstance(batch, (tuple, list)) else (batch, None)
        train = not (trainer.testing or trainer.predicting)
        view = self._views_of_epoch(trainer.current_epoch, index.device)[index] if trainer.training else None
        return self.deal(index, train=train, view=view, images=images)

    def deal(
        self, index: Tensor, train: bool = True, view: Tensor | None = None, images: Tensor | None = None
    ) -> Batch:
        """Make images of the whole training set, or of the test set, ready for a network: see `Dealer.deal`."""
        return self._dealers[train].deal(index, view, images)

    def stored(self, index: Tensor, train: bool = True) -> Tensor:
        """Images of the whole training set, or of the test set, as `load` gives them: uint8 (B, *stored_shape)."""
        return self._dealers[train].stored(index)

    def _views_of_epoch(self, epoch: int, device: torch.device) -> Tensor:
        """The view that each training image gets in an epoch: int64 (N,)."""
        if self._epoch_views is None or self._epoch_views[0] != epoch:
            generator = torch.Generator().manual_seed(self._seed * SEED_SPACING + epoch)
            views = self.views.draw(self.train_count, generator)
            self._epoch_views = epoch, views.to(device)
        return self._epoch_views[1]
