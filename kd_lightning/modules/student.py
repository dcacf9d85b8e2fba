"""The base of modules that learn from a frozen teacher: load it, check it, and cache its outputs."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from kd_lightning.batch import Batch, data_of
from kd_lightning.checkpoints.description import listed
from kd_lightning.errors import UserError
from kd_lightning.modules.classifier import ClassifierModule
from kd_lightning.modules.feature_hooks import record_outputs
from kd_lightning.modules.sanity import warn_if_at_chance
from kd_lightning.teachers import (
    ClassOrder,
    FrozenTeacher,
    LogitCache,
    OwnInput,
    RowLayout,
    TeacherPart,
    load_teacher,
    parts_of,
)


class StudentModule(ClassifierModule):
    """Train a network with the help of a frozen teacher; subclasses define the losses in `shared_step`.

    The teacher's file is read when training starts. Testing and exporting a trained student do not need it: a test
    reports the agreement with the teacher if the file exists.

    Args:
        net: the student: images (B, C, H, W) to logits (B, classes).
        teacher: the teacher's network; see `DistillModule` for this and the other options.
        teacher_ckpt: files of its weights.
        cache_teacher: whether its logits are cached.
        shard_teacher: whether its weights are divided among the processes.
        teacher_classes: names of its classes.
        **kwargs: optimizer, lr_scheduler, steps_at_once and compile, see `ClassifierModule`.

    Raises:
        UserError: the teacher's file is missing or unreadable, or of another architecture, other classes or other data.
    """

    needs_logits = True
    """Whether a loss needs the teacher's logits; else it may be a network without classes."""
    teacher_layers: tuple[str, ...] = ()
    """Layers of the teacher whose outputs losses compare."""
    layer_option = ""
    """The option that names them, for errors."""

    def __init__(
        self,
        net: nn.Module,
        teacher: nn.Module,
        teacher_ckpt: str | list[str] | None = None,
        cache_teacher: bool | Literal["all"] | None = None,
        shard_teacher: bool = False,
        teacher_classes: Sequence[str] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(net, **kwargs)
        if shard_teacher and cache_teacher is True:
            raise UserError("cache_teacher: true found, all or false expected with shard_teacher")
        if isinstance(teacher, ClassifierModule):
            teacher = teacher.net
        self.teacher = FrozenTeacher(teacher)
        self.teacher_ckpt = teacher_ckpt
        self.cache_teacher = cache_teacher
        self.shard_teacher = shard_teacher
        self.teacher_classes = teacher_classes
        self._architecture = str(teacher)
        self._teacher_parts: list[TeacherPart] = []  # its networks, once they are loaded
        self._has_teacher = True  # false in a test without the teacher's file, or with a teacher of other data
        self._has_classes = True  # of the data
        self._class_orders: list[ClassOrder | None] = []
        self._layer_shapes: dict[str, torch.Size] = {}  # of outputs for one image, once they are known
        self._layout = RowLayout(0, {})
        self._cache: LogitCache | None = None
        self._val_cache: LogitCache | None = None  # of validation images
        self._val_place = torch.empty(0)  # of each of them in it

    def setup(self, stage: str) -> None:
        """Load the teacher, and compare student and teacher with the data."""
        self._load_teacher(stage)
        for part in self._teacher_parts:
            part.prepare(data_of(self.trainer))
        if self._teacher_parts:
            self._match_classes(stage)
        super().setup(stage)
        if self.shard_teacher and self.trainer.world_size > 1 and self._teacher_parts and not self.teacher.sharded:
            self.teacher.shard(self.trainer.strategy.root_device)
        self.compile_network(self.teacher.network)

    def check_networks(self, fitting: bool) -> None:
        """Check the outputs of student and teacher; see `ClassifierModule`."""
        super().check_networks(fitting)
        if self._teacher_parts and self._has_teacher and not self.teacher.sharded:
            self._has_classes = self.network_check.check(
                self.teacher.network, "teacher", self.teacher.in_class_order, self.needs_logits
            )

    def run_teacher(self, image: Tensor) -> Tensor:
        """Compute the teacher's logits, float32 (B, classes), of normalised images (B, C, H, W)."""
        return self.teacher(self.as_input(image)).float()

    def teacher_outputs(self, batch: Batch) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return the teacher's logits and the outputs of `teacher_layers`, during a fit from the caches.

        Returns:
            Logits, float32 (B, classes), None if there are none; and the layers' outputs (B, …) by name.
        """
        if not self._has_teacher:
            return None, {}
        cache, index, view = self._cache, batch.index, batch.view
        if cache is None or self._val_cache is None:
            return self._run_teacher(batch.image)
        if not self.trainer.training:
            cache, index, view = self._val_cache, self._val_place[index], torch.zeros_like(view)
        return self._layout.unpack(cache.look_up(index, view, lambda rows: self._row_of(batch.image[rows])))

    def _run_teacher(self, image: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        with self.recorded_layers() as outputs:
            logits = self.run_teacher(image) if self._has_classes else None
            if logits is None:
                self.teacher(self.as_input(image))
            return logits, {name: outputs[name] for name in self.teacher_layers}

    def _row_of(self, image: Tensor) -> Tensor:
        return self._layout.pack(*self._run_teacher(image))

    def recorded_layers(self) -> AbstractContextManager[dict[str, Tensor]]:
        """Return a context that records the outputs of the teacher's layers, by name."""
        return record_outputs(self.teacher.network, self.teacher_layers, f"{self.layer_option}: teacher_layer")

    def on_fit_start(self) -> None:
        """Compare the teacher with chance, and open the cache of its logits."""
        data, trainer, precision = data_of(self.trainer), self.trainer, self.trainer.precision_plugin
        if not self._has_classes:
            kind = type(self.teacher.trained_network).__name__
            rank_zero_info(f"teacher: {kind} has no logits of the data's classes; its features alone are used")
        else:
            name = str(self.teacher_ckpt or f"none (the {type(self.teacher.trained_network).__name__} as it was built)")
            # `forward` runs no hooks, which count the teacher's forward passes in training.
            with precision.train_step_context():
                warn_if_at_chance(lambda image: self.teacher.forward(self.as_input(image)), name, trainer)
        self._cache = self._open_cache()
        if self._cache:
            self._val_cache = self._open_val_cache(data.val_positions.to(self.device), data.train_count)
        if self._cache and self.cache_teacher == "all":
            with torch.no_grad(), precision.train_step_context():
                self._cache.fill(
                    lambda index, view: self._row_of(data.make_batch(index, view=view).image),
                    data.eval_batch_size,
                    trainer.global_rank,
                    trainer.world_size,
                )

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means, and merge the caches of all processes."""
        super().on_train_epoch_end()
        if self._cache:
            self._cache.end_epoch()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the cache as well: logits that are computed again in another batch are rounded differently."""
        super().on_save_checkpoint(checkpoint)
        self._save_cache()

    def on_fit_end(self) -> None:
        """Save the cache."""
        self._save_cache()
        self._cache = self._val_cache = None

    def _save_cache(self) -> None:
        if self._cache and self.trainer.is_global_zero:
            self._cache.save()

    def _open_cache(self) -> LogitCache | None:
        required = None if self.cache_teacher is None else bool(self.cache_teacher)
        if self.shard_teacher and required is None:
            return None
        data = data_of(self.trainer)
        self._layout = RowLayout(getattr(data, "num_classes", 0) if self._has_classes else 0, self._layer_shapes)
        has_rows = set(self.teacher_layers) == self._layer_shapes.keys()
        key = f"{self._architecture} {self.trainer.precision} {self.device.type}"
        if any(self._class_orders):  # cached logits are in the data's order
            key += f" {[order and order.places for order in self._class_orders]}"
        if inputs := [str(part.network) for part in self._teacher_parts if isinstance(part.network, OwnInput)]:
            key += f" {inputs}"  # with what checkpoints or the data have added
        if self.teacher_layers:
            key += f" {self.teacher_layers}"
        files = [part.file for part in self._teacher_parts if part.file]
        return LogitCache.open(
            data,
            self.teacher.network,
            files,
            self._layout.width,
            key=key,
            device=self.device,
            required=required,
            obstacle="" if has_rows else "the outputs of the teacher's layers have no known shape for each image",
        )

    def _open_val_cache(self, positions: Tensor, images: int) -> LogitCache:
        """Create the cache of validation images, int64 (n,) among all `images`, in memory: they have no views."""
        place = torch.arange(len(positions), device=self.device)
        self._val_place = positions.new_zeros(images)
        self._val_place[positions] = place
        return LogitCache(place, len(positions), 1, self._layout.width, self.device)

    def _load_teacher(self, stage: str) -> None:
        """Load the teacher's weights, once; without its file, warn in a test."""
        if self._teacher_parts:
            return
        teacher, paths = self.teacher.network, self.teacher_ckpt
        missing = [path for _, path in parts_of(teacher, paths) if not Path(path).exists()] if paths else []
        self._has_teacher = stage == "fit" or not missing
        if not self._has_teacher:
            warnings.warn(f"teacher_ckpt: no {missing[0]}; agreement with the teacher is not reported", stacklevel=2)
            return
        self._teacher_parts = load_teacher(teacher, paths, self.teacher_classes)

    def _match_classes(self, stage: str) -> None:
        """Select the data's classes from the teacher's; refuse a teacher of other data, or warn in a test."""
        data = data_of(self.trainer)
        for part in self._teacher_parts if stage == "fit" else ():
            part.warn_of_input(data)
        try:
            orders = [part.class_order(data) for part in self._teacher_parts]
        except UserError as error:
            if stage == "fit":
                raise
            rank_zero_warn(f"{error}; agreement with the teacher is not reported")
            self._has_teacher = False
            return
        self._has_teacher, self._class_orders = True, orders
        self.teacher.set_class_orders(orders)
        changed = [(part, order) for part, order in zip(self._teacher_parts, orders, strict=True) if order]
        if changed and stage == "fit":
            part, order = changed[0]
            more = order.outputs - len(order.places)
            has = f"{more} more classes than the data" if more else "its classes in another order than the data"
            rank_zero_info(f"{part.name} has {has}; its logits are permuted to the data's ({listed(data.class_names)})")
