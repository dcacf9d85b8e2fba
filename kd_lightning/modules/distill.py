"""Learning from a teacher's softened outputs, from its inner layers and from labels."""

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from kd_lightning.batch import Batch, data_of
from kd_lightning.checkpoints.description import KEY, compare_with_data, listed
from kd_lightning.checkpoints.weights import load_weights, resolve_checkpoint
from kd_lightning.errors import UserError, one_line
from kd_lightning.losses import soft_target_loss
from kd_lightning.losses.check import check_arguments, check_scalar
from kd_lightning.modules.classifier import ClassifierModule
from kd_lightning.modules.feature_hooks import tapped
from kd_lightning.teachers import FrozenTeacher, LogitCache, parts_of
from kd_lightning.utils.progress import status

LOOKED_AT = 200
"""Training images at which a teacher is tried before training."""

SoftLoss = Callable[[Tensor, Tensor, float], Any]
"""(student logits, teacher logits, temperature) to a scalar; `Any`, for the CLI refuses functions without annotations
where a type is named."""


@dataclass
class FeatureMatch:
    """One layer of the student that is to become like one of the teacher's.

    Args:
        student_layer: its name in the student, such as `features` or `layer3.0.conv2`.
        teacher_layer: its name in the teacher.
        loss: (student's output, teacher's output) to a scalar; what it has to train is trained with the student.
    """

    student_layer: str
    teacher_layer: str
    loss: nn.Module


class DistillModule(ClassifierModule):
    """A student that matches a frozen teacher.

    Loss: hard_weight · cross-entropy + soft_weight · soft loss + feature_weight · sum of the features' losses.

    Student and teacher see the same tensor. The teacher's file is read when training starts; testing and exporting
    a trained student do not need it (a test reports the agreement with the teacher where the file is there).

    Args:
        net: the student: images (B, C, H, W) to logits (B, classes).
        teacher: the teacher's network, built like `net`; its weights come from `teacher_ckpt`.
        teacher_ckpt: one of our checkpoints, a run folder (its best checkpoint, else its last), or a state dict of
            the network as `.pt`, `.pth` or `.safetensors`; of an `EnsembleTeacher` a list of them, one for each member.
            None: the network is the teacher as it is, with the weights that it was built or given with.
        temperature: T of the soft loss, above 0.
        hard_weight: factor on the cross-entropy with the label, at least 0.
        soft_weight: factor on the soft loss, at least 0.
        soft_loss: (student logits, teacher logits, temperature) to a scalar: a function, or an `nn.Module`, whose
            parameters are trained with the student.
        cache_teacher: ask the teacher once for each image and view, and keep its answers beside `teacher_ckpt` for the
            runs to come. By default where that is exact and takes at most 2 GiB. True: when an image comes
            up under a view; `all`: before the first step, for all images and views, in large batches.
        shard_teacher: for a teacher too large for one device: each process of a run on several keeps a share of its
            weights, and a block is put together when it is called. Its answers are then kept with `cache_teacher: all`
            alone.
        features: layers of the student and the teacher that are matched, each pair by a loss of its own.
        feature_weight: factor on the sum of those losses, above 0 where there are features, else 0.
        **kwargs: optimizer, lr_scheduler, steps_at_once and compile, see `ClassifierModule`.

    Raises:
        UserError: a weight or temperature out of range, a teacher that is missing, unreadable, of another
            architecture, of other classes or trained on other data, a soft loss of other arguments, or features of
            layers that do not exist or do not fit.

    Sources: Hinton, Vinyals and Dean 2015, section 2 (arXiv 1503.02531); for features, Romero et al. 2015,
    section 2.2 (FitNets, arXiv 1412.6550).
    """

    def __init__(
        self,
        net: nn.Module,
        teacher: nn.Module,
        teacher_ckpt: str | list[str] | None = None,
        temperature: float = 4.0,
        hard_weight: float = 0.1,
        soft_weight: float = 0.9,
        soft_loss: SoftLoss = soft_target_loss,
        cache_teacher: bool | Literal["all"] | None = None,
        shard_teacher: bool = False,
        # The CLI builds arguments in this order. Behind `net`, what a loss draws leaves the student's start as it is.
        features: Sequence[FeatureMatch] = (),
        feature_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(net, **kwargs)
        if not temperature > 0:
            raise UserError(f"temperature: {temperature} found, a number above 0 expected")
        weights = {"hard_weight": hard_weight, "soft_weight": soft_weight, "feature_weight": feature_weight}
        for name, weight in weights.items():
            if not weight >= 0:
                raise UserError(f"{name}: {weight} found, a number of at least 0 expected")
        if not any(weights.values()):
            raise UserError(f"{', '.join(weights)}: all 0 found, at least one above 0 expected")
        if features and not feature_weight:
            raise UserError("feature_weight: 0 found, a number above 0 expected where there are features")
        if feature_weight and not features:
            raise UserError(f"features: none found, at least one expected for a feature_weight of {feature_weight}")
        if shard_teacher and cache_teacher is True:
            raise UserError("cache_teacher: true found, all or false expected with shard_teacher")
        check_arguments(soft_loss)
        if isinstance(teacher, ClassifierModule):
            teacher = teacher.net
        self.teacher = FrozenTeacher(teacher)
        self.teacher_form = str(teacher)
        self.teacher_ckpt = teacher_ckpt
        self.temperature = temperature
        self.hard_weight, self.soft_weight, self.feature_weight = hard_weight, soft_weight, feature_weight
        self.soft_loss = soft_loss
        self.cache_teacher = cache_teacher
        self.shard_teacher = shard_teacher
        self._cache: LogitCache | None = None
        if features and self.compile_by:
            raise UserError("compile: false expected where features tap inner layers, which compiled networks hide")
        self.features = tuple(features)
        self.feature_losses = nn.ModuleList(match.loss for match in features)
        self._student_outputs: dict[str, Tensor] = {}
        self._teacher_outputs: dict[str, Tensor] = {}
        self._evaluated: Tensor | None = None
        self._teacher_loaded = False
        self._teacher_fits = True
        self._teacher_files: list[tuple[Path, Any]] = []  # each with its description
        self.class_orders: list[list[int] | None] = []
        """By file of `teacher_ckpt`: the teacher's output for each class of the data; None where the order is equal."""

    def setup(self, stage: str) -> None:
        """Load the teacher; compare its classes, and the student's, with the data's, and the features' shapes."""
        super().setup(stage)
        if not self._teacher_loaded:
            self._load_teacher(stage)
        if self._teacher_files and self._teacher_loaded:
            self._compare_teacher_with_data(stage)
        if stage == "fit" and not self.teacher.sharded:
            self._check_features()
        if self.shard_teacher and self.trainer.world_size > 1 and self._teacher_loaded and not self.teacher.sharded:
            self.teacher.shard(self.trainer.strategy.root_device)
        self.compile_network(self.teacher.network)

    def check_networks(self) -> None:
        """Check the outputs of student and teacher, and the features' shapes; see `ClassifierModule`."""
        super().check_networks()
        if self._teacher_loaded and not self.teacher.sharded:
            self.check_outputs(self.teacher.network, "teacher")
            if self.trainer.training:
                self._check_features()

    def _load_teacher(self, stage: str) -> None:
        if self.teacher_ckpt is None:
            self.check_outputs(self.teacher.network, "teacher")
            self._teacher_loaded = True
            return
        parts = parts_of(self.teacher.network, self.teacher_ckpt)
        gone = [path for _, path in parts if not Path(path).exists()]
        if stage != "fit" and gone:
            warnings.warn(f"teacher_ckpt: no {gone[0]}; agreement with the teacher is not reported", stacklevel=2)
            return
        for network, path in parts:
            file = resolve_checkpoint(path, "teacher_ckpt")
            content = load_weights(network, file, "teacher_ckpt")
            self._teacher_files.append((file, content.get(KEY) if isinstance(content, dict) else None))
            self.check_outputs(network, "teacher")
        self._teacher_loaded = True

    def _compare_teacher_with_data(self, stage: str) -> None:
        """Permute the teacher's classes to the data's order; raise `UserError` for a teacher of other data.

        Where nothing is trained, the student is merely not compared with such a teacher.
        """
        data = data_of(self.trainer)
        try:
            self.class_orders = [
                compare_with_data(description, data, f"teacher_ckpt: {file}")
                for file, description in self._teacher_files
            ]
        except UserError as error:
            if stage == "fit":
                raise
            rank_zero_warn(f"{error}; agreement with the teacher is not reported")
            self._teacher_fits = False
            return
        self._teacher_fits = True
        self.teacher.set_class_orders(self.class_orders)
        permuted = [file for order, (file, _) in zip(self.class_orders, self._teacher_files, strict=True) if order]
        if permuted and stage == "fit":
            rank_zero_info(
                f"teacher_ckpt: {permuted[0]} has its classes in another order than the data; its logits are permuted "
                f"to the data's ({listed(data.class_names)})"
            )

    def _student_taps(self) -> AbstractContextManager[dict[str, Tensor]]:
        return tapped(self.net, [match.student_layer for match in self.features], "features: student_layer")

    def _teacher_taps(self) -> AbstractContextManager[dict[str, Tensor]]:
        return tapped(self.teacher.network, [match.teacher_layer for match in self.features], "features: teacher_layer")

    @torch.no_grad()
    def _check_features(self) -> None:
        """Show both networks two blank images; raise `UserError` where two layers' outputs do not fit their loss."""
        if not self.features or self._image_shape is None:  # see `check_outputs`
            return
        with self._student_taps() as student, self._teacher_taps() as teacher:
            self.check_outputs(self.net, "network")
            self.check_outputs(self.teacher.network, "teacher")
            for match in self.features:
                outputs = student[match.student_layer], teacher[match.teacher_layer]
                loss = deepcopy(match.loss).eval()  # nothing in a loss learns from a blank image
                try:
                    loss(*outputs)
                except (ValueError, RuntimeError) as error:  # ours raise the one, torch's layers the other
                    shapes = ["x".join(map(str, output.shape)) for output in outputs]
                    raise UserError(
                        f"features: student_layer {match.student_layer} gives {shapes[0]} and teacher_layer "
                        f"{match.teacher_layer} gives {shapes[1]}, which {type(loss).__name__} does not take "
                        f"({one_line(error)})"
                    ) from error

    def on_fit_start(self) -> None:
        """Make the table of the teacher's answers, with those that runs before have left."""
        self._look_at_teacher()
        self._cache = self._open_cache()
        if self._cache and self.cache_teacher == "all":
            data, trainer = data_of(self.trainer), self.trainer
            with torch.no_grad(), trainer.precision_plugin.train_step_context():
                self._cache.fill(
                    lambda index, view: self._ask(data.deal(index, view=view).image),
                    data.eval_batch_size,
                    trainer.global_rank,
                    trainer.world_size,
                )

    def _open_cache(self) -> LogitCache | None:
        key = f"{self.teacher_form} {self.trainer.precision} {self.device.type}"
        if any(self.class_orders):  # the cached logits are in the data's order
            key += f" {self.class_orders}"
        return LogitCache.open(
            data_of(self.trainer),
            self.teacher.network,
            [file for file, _ in self._teacher_files],
            key=key,
            device=self.device,
            required=False if self.cache_teacher is None and self.shard_teacher else self.cache_teacher and True,
            obstacle="features need the teacher's inner layers" if self.features else "",
        )

    @torch.no_grad()
    def _look_at_teacher(self) -> None:
        """Warn of a teacher that knows no more of the training images than chance does."""
        data = data_of(self.trainer)
        if not hasattr(data, "train_positions"):  # of another kind than ours
            return
        some = data.train_positions[:: max(1, len(data.train_positions) // LOOKED_AT)][:LOOKED_AT]
        correct = 0
        trying = status("trying the teacher", self.trainer.is_global_zero)
        with trying, self.trainer.precision_plugin.train_step_context():
            for index in some.to(self.device).split(data.eval_batch_size):
                batch = data.deal(index)
                # Not by a call, whose hooks count the teacher's forward passes in training.
                logits = self.teacher.forward(self.as_input(batch.image))
                correct += int((logits.argmax(dim=-1) == batch.label).sum())
        right, chance = correct / len(some), 1 / data.num_classes
        if right <= chance + 2 * math.sqrt(chance * (1 - chance) / len(some)):
            which = self.teacher_ckpt or f"none (the {type(self.teacher.network).__name__} as it was built)"
            rank_zero_warn(
                f"teacher_ckpt: {which} names {right:.1%} of {len(some)} training images right, chance "
                f"{chance:.1%}; was it trained for these classes, in this order, and with this normalisation?"
            )

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means, and join what each process has had the teacher say."""
        super().on_train_epoch_end()
        if self._cache:
            self._cache.end_epoch()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the teacher's answers, too: asked for again among others, they would be rounded otherwise."""
        super().on_save_checkpoint(checkpoint)
        self._save_cache()

    def on_fit_end(self) -> None:
        """Keep the teacher's answers."""
        self._save_cache()
        self._cache = None

    def _save_cache(self) -> None:
        if self._cache and self.trainer.is_global_zero:
            self._cache.save()

    def teacher_logits(self, batch: Batch) -> Tensor | None:
        """What the teacher says of a batch: (B, classes); None where its file is gone."""
        return self._ask(batch.image) if self._teacher_loaded and self._teacher_fits else None

    def _ask(self, image: Tensor) -> Tensor:
        return self.teacher(self.as_input(image)).float()

    def _answer(self, batch: Batch) -> Tensor:
        """The teacher's logits (B, classes) of a training batch, or of the batch that is being evaluated."""
        if self._evaluated is not None:
            return self._evaluated
        if self._cache is None:
            return self._ask(batch.image)
        return self._cache.look_up(batch.index, batch.view, lambda rows: self._ask(batch.image[rows]))

    def _evaluate(self, batch: Batch) -> Tensor:
        with self._student_taps() as self._student_outputs, self._teacher_taps() as self._teacher_outputs:
            return super()._evaluate(batch)

    def evaluation_loss(self, batch: Batch, logits: Tensor, teacher_logits: Tensor | None) -> Tensor | None:
        """The training loss of a validation or test batch, without another pass of the teacher; None without one."""
        self._evaluated = teacher_logits
        try:
            return None if teacher_logits is None else super().evaluation_loss(batch, logits, teacher_logits)
        finally:
            self._evaluated = None

    def loss_of(self, batch: Batch) -> Tensor:
        """The loss of one training batch."""
        with self._student_taps() as self._student_outputs:
            return super().loss_of(batch)

    def losses(self, batch: Batch, logits: Tensor) -> dict[str, Tensor]:
        """`loss`, and its parts before their weights: `hard_loss`, `soft_loss` and, with features, `feature_loss`."""
        hard = F.cross_entropy(logits, batch.label)
        with self._teacher_taps() as teacher_outputs:
            teacher_logits = self._answer(batch)
            if self._evaluated is not None:
                teacher_outputs = self._teacher_outputs
            features = [
                loss(self._student_outputs[match.student_layer], teacher_outputs[match.teacher_layer])
                for match, loss in zip(self.features, self.feature_losses, strict=True)
            ]
        soft = self.soft_loss(logits, teacher_logits, self.temperature)
        check_scalar(self.soft_loss, soft)
        parts = {"loss": self.hard_weight * hard + self.soft_weight * soft, "hard_loss": hard, "soft_loss": soft}
        if features:
            parts["feature_loss"] = torch.stack(features).sum()
            parts["loss"] = parts["loss"] + self.feature_weight * parts["feature_loss"]
        return parts
