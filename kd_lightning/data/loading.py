"""Loaders of indices, the order and the views of an epoch, and resuming within one."""

import os
from collections.abc import Sequence
from multiprocessing import get_all_start_methods, get_start_method
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from kd_lightning.batch import Batch, epoch_batch_sizes
from kd_lightning.data.batches import BatchMaker, neighbours
from kd_lightning.data.mixes import Draws, Mix
from kd_lightning.data.samplers import EvaluationSampler, ResumingSampler
from kd_lightning.data.sets import Indices, StreamedSet
from kd_lightning.data.views import ViewFamily
from kd_lightning.errors import UserError

SEED_SPACING = 1_000_003
"""Epoch e of seed s draws from random stream s * SEED_SPACING + e, which no other pair uses."""


def _unchanged(batch: Any) -> Any:
    return batch


class IndexLoading(LightningDataModule):
    """Yields indices, and turns them into batches on the device; a resumed training continues within an epoch.

    `ClassificationDataModule` sets the options, and what its `setup` has loaded.
    """

    views: ViewFamily
    mix: Mix | None
    batch_size: int
    eval_batch_size: int
    num_workers: int
    shuffle: bool
    seed: int | None
    split_seed: int
    train_positions: Tensor
    """Images to train on, as indices into the whole training set, int64 (n,)."""
    val_positions: Tensor
    """Validation images, likewise."""
    batches_at_once = 1
    """Training batches that the loader yields as one; set before training by a module that splits them."""

    def __init__(self) -> None:
        super().__init__()
        self._batch_makers: dict[bool, BatchMaker] = {}  # True: training set, False: test set
        self._epoch_draws: tuple[int, Tensor, Draws | None] | None = None
        self._resume_at: tuple[int, int] | None = None

    @property
    def test_count(self) -> int:
        """Number of test images; known after setup."""
        return len(self._batch_makers[False].part.label)

    @property
    def train_count(self) -> int:
        """Size of the whole training set, before it is narrowed; known after setup."""
        return len(self._batch_makers[True].part.label)

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
