"""The base of all data modules: loaders yield indices, and images are gathered and augmented on the device."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_all_start_methods, get_start_method
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from kd_lightning.batch import UNLABELLED, Batch, epoch_batch_sizes
from kd_lightning.data.batches import RESIDENT_BYTES, BatchMaker, neighbours
from kd_lightning.data.copies import PAIRS, digests_of, warn_of_classes_without_test_images, warn_of_copies
from kd_lightning.data.mixes import Draws, Mix
from kd_lightning.data.samplers import EvaluationSampler, ResumingSampler
from kd_lightning.data.sets import ImageSet, Indices, StreamedSet
from kd_lightning.data.splits import narrow, stratified
from kd_lightning.data.views import Identity, ViewFamily
from kd_lightning.errors import UserError

SEED_SPACING = 1_000_003
"""Epoch e of seed s draws from random stream s * SEED_SPACING + e, which no other pair uses."""


def _unchanged(batch: Any) -> Any:
    return batch


class ClassificationDataModule(LightningDataModule):
    """Base of datasets of images with one class each.

    A `DataLoader` yields int64 (B,) indices. `on_after_batch_transfer` turns them into a `Batch` on the device: it
    gathers the images, augments and normalises them. Loader workers read the images of sets that do not fit in memory
    (`StreamedSet`). A subclass defines `load`, `class_names` and `image_shape`.

    The order of the training images and the view of each depend on seed and epoch alone, not on the number of workers
    and devices.

    The training set is narrowed in this order: `val_size` images are held out, stratified; the first `train_size` of
    the others are kept, in file order; classes are left out. Validation and test contain all classes.

    Args:
        mean: subtracted from pixels in [0, 1]; one value per channel, or one for all.
        std: divisor after that, above 0; one value per channel, or one for all.
        views: augmentation of the training images; none by default.
        mix: mixing of the training images after that (`MixUp`, `CutMix`); none by default.
        train_size: number of training images to keep; all by default.
        val_size: number of training images held out for validation; with 0 the last epoch is the result.
        omit_classes: numbers of classes to leave out of training.
        only_classes: numbers of the only classes to train on; empty for all.
        batch_size: training images per step and device.
        eval_batch_size: images per step in validation, test and prediction.
        num_workers: loader processes, for sets above 2 GiB and streamed sets; indices alone need none.
        shuffle: whether to shuffle in each epoch; otherwise file order.
        seed: seed of order and views; by default that of `seed_everything`.
        split_seed: seed of the validation split, the same for runs of different seeds.

    Raises:
        UserError: an option does not fit the data.
    """

    class_names: Sequence[str] = ()
    """Names of the classes, known before setup, as networks are built for their number."""
    image_shape: tuple[int, int, int] = (0, 0, 0)
    """(C, H, W) of the network's input."""
    has_unlabelled = False
    """Whether training images may have the label `UNLABELLED`."""
    batches_at_once = 1
    """Training batches that the loader yields as one; set before training by a module that splits them."""
    test_names: Sequence[str] | None = None
    """Names of the test images, if they have any; known after setup for a test."""

    def __init__(
        self,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        views: ViewFamily | None = None,
        mix: Mix | None = None,
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
        self.mix = mix
        self.train_size = train_size
        self.val_size = val_size
        self.omit_classes, self.only_classes = tuple(omit_classes), tuple(only_classes)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers = num_workers
        self.shuffle = shuffle
        self.seed = seed
        self.split_seed = split_seed
        self._batch_makers: dict[bool, BatchMaker] = {}  # True: training set, False: test set
        self._epoch_draws: tuple[int, Tensor, Draws | None] | None = None
        self._resume_at: tuple[int, int] | None = None
        self._compared: set[object] = set()  # what was compared, so that each warning appears once

    @abstractmethod
    def load(self, train: bool) -> ImageSet | StreamedSet:
        """Read the whole training set, or the whole test set, in file order."""

    def held_out(self, label: Tensor) -> Tensor:
        """Return the validation images, labelled ones, as ascending indices into the training set, int64 (N,)."""
        labelled = (label != UNLABELLED).nonzero().squeeze(1)
        most = min(len(labelled), len(label) - 1)
        if not 0 <= self.val_size <= most:
            raise UserError(f"val_size: {self.val_size} found, 0 to {most} expected")
        generator = torch.Generator().manual_seed(self.split_seed)
        return labelled[stratified(label[labelled], self.val_size, generator)]

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that `load` returns, before they are resized to `image_shape`."""
        return self.image_shape

    @property
    def fingerprint(self) -> str:
        """Identifies the data beside its options, such as by the names of its files; empty if the options suffice."""
        return ""

    def input_digest(self, train: bool = True) -> str:
        """Return a digest of all that determines the network's input for an image and a view; known after setup.

        For a streamed set, whose pixels would have to be read, it depends on the set's `digest`, and is empty without.
        """
        part = self._batch_makers[train].part
        if isinstance(part, StreamedSet):
            if not part.digest:
                return ""
            result = hashlib.sha256(part.digest.encode())
        else:
            result = hashlib.sha256(part.image.contiguous().numpy().data)
        shapes = self.stored_shape, self.image_shape
        result.update(repr((type(self), *shapes, self.mean.tolist(), self.std.tolist(), self.views)).encode())
        if self.mix:  # its partners are among the images that are trained on
            result.update(repr(self.mix).encode() + self.train_positions.numpy().tobytes())
        return result.hexdigest()

    def content_digest(self, train: bool) -> str:
        """Return a digest of images and labels of the training or test set; known after setup.

        For a streamed set, whose pixels would have to be read, it is the `fingerprint`.
        """
        part = self._batch_makers[train].part
        if isinstance(part, StreamedSet):
            return self.fingerprint
        digest = hashlib.sha256(part.image.contiguous().numpy().data)
        digest.update(part.label.numpy().data)
        return digest.hexdigest()

    def test_digest(self) -> str:
        """Return a digest of the test images, labels, class names and normalisation; known after setup."""
        shown = [list(self.class_names), self.stored_shape, self.image_shape, self.mean.tolist(), self.std.tolist()]
        return hashlib.sha256(f"{self.content_digest(train=False)} {shown}".encode()).hexdigest()

    @property
    def test_count(self) -> int:
        """Number of test images; known after setup."""
        return len(self._batch_makers[False].part.label)

    @property
    def num_classes(self) -> int:
        """Number of classes, including those left out of training."""
        return len(self.class_names)

    @property
    def train_count(self) -> int:
        """Size of the whole training set, before it is narrowed; known after setup."""
        return len(self._batch_makers[True].part.label)

    @property
    def train_label(self) -> Tensor | None:
        """Labels of the images that are trained on, int64 (n,); None before setup, and in a test."""
        return self._batch_makers[True].part.label[self.train_positions] if True in self._batch_makers else None

    @property
    def view_count(self) -> int | None:
        """Number of different network inputs of each training image; None if they are new in every epoch."""
        return self.mix.count if self.mix else self.views.count

    @property
    def missing_classes(self) -> tuple[int, ...]:
        """Numbers of the classes left out of training, ascending."""
        kept = self.only_classes or range(self.num_classes)
        return tuple(c for c in range(self.num_classes) if c not in kept or c in self.omit_classes)

    def setup(self, stage: str) -> None:
        """Load the parts that a stage needs, and choose the training and validation images."""
        self.check_normalisation()
        if stage in ("fit", "validate") and True not in self._batch_makers:
            part = self._checked(self.load(train=True), "training")
            self._batch_makers[True] = self._batch_maker(part, self.views)
            self.train_positions, self.val_positions = self._split(part.label)
            if self.mix:
                self._batch_makers[True].mix_with(self.mix, self.train_positions)
        if stage == "validate" and not len(self.val_positions):
            raise UserError("val_size: 0 found, at least 1 expected to validate (images held out of the training set)")
        if stage in ("test", "predict") and False not in self._batch_makers:
            self._batch_makers[False] = self._batch_maker(self._checked(self.load(train=False), "test"), Identity())
        if stage in ("fit", "test") and getattr(self.trainer, "global_rank", 0) == 0:
            self._compare_parts(stage)

    def _compare_parts(self, stage: str) -> None:
        """Warn once of images that two parts share, and of classes without test images."""
        place = str(getattr(self, "root", type(self).__name__))
        pairs = PAIRS if stage == "fit" else PAIRS[1:]
        if not self._compared.issuperset(pairs):
            self._compared |= warn_of_copies(place, self.part_digests(), [p for p in pairs if p not in self._compared])
        if stage == "test" and "classes" not in self._compared:
            self._compared.add("classes")
            warn_of_classes_without_test_images(place, self._batch_makers[False].part.label, self.class_names)

    def part_digests(self) -> dict[str, list[bytes]]:
        """Return digests of the images of `training`, `validation` and `test`, to find copies between them.

        Parts that are streamed or larger than 2 GiB are left out, as is a test set that is not set up, and a training
        set that a test cannot read.
        """
        test = self._digests(self._batch_makers[False].part if False in self._batch_makers else None, train=False)
        if not test and (True not in self._batch_makers or not len(self.val_positions)):
            return {}  # nothing to compare
        found = {"test": test}
        with suppress(Exception):  # a test does not need the training set, whatever a user's `load` raises
            if True in self._batch_makers:
                part, places = self._batch_makers[True].part, (self.train_positions, self.val_positions)
            else:
                part = self._checked(self.load(train=True), "training")
                places = self._split(part.label)
            if every := self._digests(part, train=True):
                for name, positions in zip(("training", "validation"), places, strict=True):
                    found[name] = [every[place] for place in positions.tolist()]
        return {name: digests for name, digests in found.items() if digests}

    def _digests(self, part: ImageSet | StreamedSet | None, train: bool) -> list[bytes]:
        """Return the digest of each image of a part in file order; empty if they are not known."""
        if not isinstance(part, ImageSet) or part.image.nbytes > RESIDENT_BYTES:
            return []
        return digests_of(part.image)

    def _batch_maker(self, part: ImageSet | StreamedSet, views: ViewFamily) -> BatchMaker:
        return BatchMaker(part, views, self.mean, self.std, self.image_shape, self.num_classes)

    def check_normalisation(self) -> None:
        """Raise `UserError` unless `mean` and `std` have one value, or one for each channel."""
        channels = self.image_shape[0]
        for name, values in {"mean": self.mean, "std": self.std}.items():
            if len(values) not in (1, channels):
                expected = f"1 or {channels}" if channels > 1 else "1"
                raise UserError(f"{name}: {len(values)} values found, {expected} expected (the channels)")

    def _checked(self, part: ImageSet | StreamedSet, name: str) -> ImageSet | StreamedSet:
        """Return a part with int64 labels; raise `UserError` for images or labels that do not fit."""
        label = part.label
        images = part.read(torch.arange(min(1, len(label)))) if isinstance(part, StreamedSet) else part.image
        if images.dtype != torch.uint8 or images.shape[1:] != self.stored_shape:
            found = f"{images.dtype} {tuple(images.shape)}".removeprefix("torch.")
            raise UserError(
                f"{name} images: {found} found, uint8 (N, {', '.join(map(str, self.stored_shape))}) expected"
            )
        if isinstance(part, ImageSet) and len(label) != len(images):
            raise UserError(f"{name} labels: {len(label)} found, {len(images)} expected (one an image)")
        lowest = UNLABELLED if name == "training" and self.has_unlabelled else 0
        if len(label) and (label.min() < lowest or label.max() >= self.num_classes):
            found = f"{label.min()} to {label.max()}"
            raise UserError(f"{name} labels: {found} found, 0 to {self.num_classes - 1} expected (the class names)")
        return part._replace(label=label.long())

    def _split(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return the training and the validation images, as indices into the whole training set."""
        if unknown := {*self.omit_classes, *self.only_classes} - set(range(self.num_classes)):
            raise UserError(
                f"omit_classes / only_classes: {sorted(unknown)} found, classes 0 to {self.num_classes - 1} expected"
            )
        val = self.held_out(label)
        return narrow(label, val, self.train_size, self.missing_classes), val

    def _loader(
        self, train: bool, positions: Tensor, batch_size: int | None, sampler: DistributedSampler[Any] | None = None
    ) -> Any:
        """Make a loader; without a `batch_size`, the sampler yields whole batches."""
        leaves_one = (
            batch_size and sampler is not None and sum(epoch_batch_sizes(len(sampler), batch_size)) < len(sampler)
        )
        augments = isinstance(sampler, ResumingSampler) and self.views.by_image
        reads = self._loader_reads_images(train, augments)
        if isinstance(sampler, ResumingSampler) and reads:
            sampler.views_of = lambda epoch: self._draws_of_epoch(epoch, torch.device("cpu"))[0][positions]
        return DataLoader(
            Indices(positions, self._batch_makers[train].reader if reads else None),
            batch_size=batch_size,
            sampler=sampler,
            drop_last=bool(leaves_one),
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # not the global one: a resumed run draws the same numbers
            persistent_workers=self.num_workers > 0,
        )

    def _loader_reads_images(self, train: bool, augments: bool) -> bool:
        """Return whether a loader yields images: streamed ones, those too large for the device, augmented ones."""
        maker = self._batch_makers[train]
        # Forked workers gather memory-mapped images; workers started otherwise would copy the map.
        forked = (get_start_method(allow_none=True) or get_all_start_methods()[0]) == "fork"
        helped = self.num_workers > 0 and (augments or (forked and not maker.is_resident))
        return helped or isinstance(maker.part, StreamedSet)

    def train_dataloader(self) -> Any:
        """Yield training indices, each process its share; the order depends on seed and epoch alone."""
        trainer = self.trainer
        sampler = ResumingSampler(
            Indices(self.train_positions),
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            shuffle=self.shuffle,
            seed=self._seed * SEED_SPACING,
        )
        loader = self._loader(True, self.train_positions, self.batch_size * self.batches_at_once, sampler)
        # Lightning sets the epoch after workers have begun to fetch, and does not skip batches of before.
        epoch, sampler.skip = self._resume_at or (trainer.current_epoch if trainer else 0, 0)
        sampler.set_epoch(epoch)
        self._resume_at = None
        return loader

    def state_dict(self) -> dict[str, Any]:
        """Return the position in training: an epoch, and how many of its images each process has used."""
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
        """Return the options on which the order of an epoch depends."""
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
        """Compare options with those of a checkpoint to resume from.

        Raises:
            UserError: another batch size; or, after setup, another option that changes the order of the epoch in which
                the training stopped.
        """
        kept = {"batch_size": state_dict.get("batch_size", self.batch_size)}
        ours = {"batch_size": self.batch_size}
        if self._batch_makers:
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
        """Restore the position in training."""
        if self.trainer and self.trainer.state.fn == TrainerFn.FITTING:
            self.check_resumable(state_dict)
        if "epoch" in state_dict:
            self._resume_at = state_dict["epoch"], state_dict["dealt"]

    def val_dataloader(self) -> Any:
        """Yield the indices of validation images; no loader if there are none."""
        return self._evaluation_loader(True, self.val_positions) if len(self.val_positions) else []

    def test_dataloader(self) -> Any:
        """Yield the indices of test images."""
        return self._evaluation_loader(False, torch.arange(self.test_count))

    def predict_dataloader(self) -> Any:
        """Yield the indices of test images; Lightning distributes each once among processes."""
        return self._loader(False, torch.arange(self.test_count), self.eval_batch_size)

    def _evaluation_loader(self, train: bool, positions: Tensor) -> Any:
        """Yield the indices of images to evaluate, each process its share.

        Lightning's own sampler repeats images until all shares are equal, which would count them twice.
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
            EvaluationSampler(len(positions), self.eval_batch_size, trainer.world_size, trainer.global_rank),
        )

    @property
    def _seed(self) -> int:
        # Lightning stores the seed of seed_everything here, the same in every process of a run.
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch:
        """Turn indices on the device into a batch of images; use those that workers have read, if any."""
        trainer = self.trainer
        assert trainer is not None  # which calls this
        index, *images = batch if isinstance(batch, (tuple, list)) else (batch,)
        if not trainer.training:
            return self.make_batch(index, train=not (trainer.testing or trainer.predicting), images=images)
        view, draws = self._draws_of_epoch(trainer.current_epoch, index.device)
        live = None if draws is None else (neighbours(len(index), self.batch_size).to(index.device), draws.at(index))
        return self.make_batch(index, view=view[index], images=images, live=live)

    def make_batch(
        self,
        index: Tensor,
        train: bool = True,
        view: Tensor | None = None,
        images: Sequence[Tensor] = (),
        live: tuple[Tensor, Draws] | None = None,
    ) -> Batch:
        """Return a batch of images of the training or test set; see `BatchMaker.make_batch`."""
        return self._batch_makers[train].make_batch(index, view, images, live)

    def stored_images(self, index: Tensor, train: bool = True) -> Tensor:
        """Return stored images of the training or test set: uint8 (B, *stored_shape)."""
        return self._batch_makers[train].stored_images(index)

    def _draws_of_epoch(self, epoch: int, device: torch.device) -> tuple[Tensor, Draws | None]:
        """Return the view (or the mix) of each training image in an epoch, int64 (N,), and draws of live mixes."""
        if self._epoch_draws is None or self._epoch_draws[0] != epoch or self._epoch_draws[1].device != device:
            generator = torch.Generator().manual_seed(self._seed * SEED_SPACING + epoch)
            draws = None
            if self.mix and self.mix.count:
                view = torch.randint(self.mix.count, (self.train_count,), generator=generator)
            else:
                view = self.views.draw(self.train_count, generator)
                draws = self.mix.draw(self.train_count, generator) if self.mix else None
            self._epoch_draws = epoch, view.to(device), draws and draws.to(device)
        return self._epoch_draws[1:]
