"""The base of all data modules: which images there are, and which of them are trained on."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from kd_lightning.batch import UNLABELLED
from kd_lightning.data.batches import RESIDENT_BYTES, BatchMaker
from kd_lightning.data.copies import PAIRS, digests_of, warn_of_classes_without_test_images, warn_of_copies
from kd_lightning.data.loading import IndexLoading
from kd_lightning.data.mixes import Mix
from kd_lightning.data.sets import ImageSet, StreamedSet
from kd_lightning.data.splits import narrow, stratified
from kd_lightning.data.views import Identity, ViewFamily
from kd_lightning.errors import UserError


class ClassificationDataModule(IndexLoading):
    """Base of datasets of images with one class each.

    A `DataLoader` yields int64 (B,) indices. `on_after_batch_transfer` turns them into a `Batch` on the device: it
    gathers the images, augments and normalises them. Loader workers read the images of sets that do not fit in memory
    (`StreamedSet`). A subclass defines `load`, `class_names` and `image_shape`.

    The order of the training images and the view of each depend on seed and epoch alone, not on the number of workers
    and devices.

    The training set is narrowed in this order: `val_size` images are held out, stratified; the first `train_size` of
    the others are kept, in file order; classes are left out; all but the first `labelled_size` lose their labels, so
    that they count in losses between the networks alone. Validation and test contain all classes.

    Args:
        mean: subtracted from pixels in [0, 1]; one value per channel, or one for all.
        std: divisor after that, above 0; one value per channel, or one for all.
        views: augmentation of the training images; none by default.
        mix: mixing of the training images after that (`MixUp`, `CutMix`); none by default.
        train_size: number of training images to keep; all by default.
        labelled_size: number of those that keep their label; all by default.
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
        labelled_size: int | None = None,
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
        self.train_size, self.labelled_size = train_size, labelled_size
        self.val_size = val_size
        self.omit_classes, self.only_classes = tuple(omit_classes), tuple(only_classes)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers = num_workers
        self.shuffle = shuffle
        self.seed = seed
        self.split_seed = split_seed
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
    def num_classes(self) -> int:
        """Number of classes, including those left out of training."""
        return len(self.class_names)

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
            self.train_positions, self.val_positions = self._split(part.label)
            self._batch_makers[True] = self._batch_maker(self._withheld(part), self.views)
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

    def _withheld(self, part: ImageSet | StreamedSet) -> ImageSet | StreamedSet:
        """Return the training set without the labels of all but the first `labelled_size` images to train on."""
        if self.labelled_size is None:
            return part
        if not 0 <= self.labelled_size <= len(self.train_positions):
            most = len(self.train_positions)
            raise UserError(f"labelled_size: {self.labelled_size} found, 0 to {most} expected (the images to train on)")
        label = part.label.clone()
        label[self.train_positions[self.labelled_size :]] = UNLABELLED
        return part._replace(label=label)

    def _split(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return the training and the validation images, as indices into the whole training set."""
        if unknown := {*self.omit_classes, *self.only_classes} - set(range(self.num_classes)):
            raise UserError(
                f"omit_classes / only_classes: {sorted(unknown)} found, classes 0 to {self.num_classes - 1} expected"
            )
        val = self.held_out(label)
        return narrow(label, val, self.train_size, self.missing_classes), val
