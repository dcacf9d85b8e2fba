"""What teacher, baseline and distilled student have in common."""

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.compiler import list_backends
from torch.optim import Optimizer

from kd_lightning.batch import Batch, as_batch, batch_sizes, data_of, images_of
from kd_lightning.checkpoints.description import KEY, compare_with_data, describe, listed
from kd_lightning.checkpoints.weights import resolve_checkpoint
from kd_lightning.errors import UserError, one_line
from kd_lightning.modules import multi_step as steps
from kd_lightning.modules import resuming
from kd_lightning.modules import rng_state as randomness
from kd_lightning.modules.loading import OPTION, check_given
from kd_lightning.modules.metrics import EvaluationMetrics, RunningMeans
from kd_lightning.modules.sanity import check_logits, read_blank_images
from kd_lightning.schedules import CosineDecay

REMEDY = "a finite number expected; the last good checkpoint is kept; a lower lr or gradient_clip_val may help"


class ClassifierModule(LightningModule):
    """A network that tells classes apart; a subclass says by which losses it learns.

    Training logs `train/…` once an epoch: every part of the loss, and the accuracy. Validation and test log the
    figures of `EvaluationMetrics` as `val/…` and `test/…`; their `loss` is the mean of the training loss.

    Args:
        net: images (B, C, H, W) to logits (B, classes).
        optimizer: makes the optimizer from the trainable parameters; fused where optimizer and device can.
        lr_scheduler: makes the schedule from the optimizer. One that counts `total_steps` (`CosineDecay`,
            `OneCycleLR`) is stepped every step, any other every epoch.
        steps_at_once: steps that Lightning has taken in one call, batch after batch, the very same as one by one: what
            it does around a call takes as long as a small network's step. Hooks, callbacks and the progress bar then
            count calls. With several devices, and options of the trainer that count or change single steps
            (`max_steps`, `limit_train_batches`, `gradient_clip_val`, …), each step has its own call.
        compile: whether the network, and a teacher, are compiled by torch before their first use, or by which of its
            backends (true: `inductor`). It pays on a GPU, and for long runs. Checkpoints are the same.

    Raises:
        UserError: the network's outputs do not match the data's classes, a loss stops being a number, or
            `steps_at_once` is below 1, or above it with a schedule that watches a figure.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        steps_at_once: int = 1,
        compile: bool | str = False,
    ) -> None:
        super().__init__()
        if steps_at_once < 1:
            raise UserError(f"steps_at_once: {steps_at_once} found, at least 1 expected")
        if not isinstance(net, nn.Module):  # a function may return anything
            raise UserError(f"net: {type(net).__name__} found, a network (nn.Module) expected")
        self.net = net
        self.memory_format = torch.channels_last
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.steps_at_once = steps_at_once
        self._compiled: list[nn.Module] = []
        self.compile_by = "inductor" if compile is True else compile
        if self.compile_by and self.compile_by not in list_backends(exclude_tags=None):
            raise UserError(f"compile: {compile} found, true, false or one of {', '.join(list_backends())} expected")
        self.train_means = RunningMeans()
        self._resumed: dict[str, Any] | None = None
        self._training: dict[str, Any] | None = None
        self._new_groups: list[dict[str, Any]] = []
        self.evaluation = EvaluationMetrics()
        self.weights_from: tuple[str, Any] | None = None
        """File whose weights alone the network was given, and what the file has for a description."""
        self._image_shape: tuple[int, ...] | None = None
        self._classes: int | None = None
        self._is_checked = True  # by whoever calls a step without a trainer
        self.last_teacher_logits: Tensor | None = None
        """Of the batch that was last measured, for callbacks, which need not ask the teacher again."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Make a module with the weights of a checkpoint; options that are not given are at their defaults.

        Args:
            checkpoint_path: a checkpoint of ours, or a run folder: its best checkpoint, else its last.
            *args: see Lightning's.
            **kwargs: see Lightning's; and the module's arguments, `net` among them.

        Raises:
            UserError: no such file, or an argument that is needed is not given; the message has the call.
        """
        if isinstance(checkpoint_path, (str, Path)) and "://" not in str(checkpoint_path):
            checkpoint_path = resolve_checkpoint(checkpoint_path, OPTION)
            check_given(cls, checkpoint_path, kwargs)
        loaded: Any = super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        return loaded

    @abstractmethod
    def losses(self, batch: Batch, logits: Tensor) -> dict[str, Tensor]:
        """Scalar losses by name: `loss`, which is minimised, and the parts that it is made of."""

    def teacher_logits(self, batch: Batch) -> Tensor | None:
        """What the teacher, if there is one, says of a batch: (B, classes)."""
        return None

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes) of normalised images (B, C, H, W)."""
        return self.net(self.as_input(image))

    def as_input(self, image: Tensor) -> Tensor:
        """Images in the module's precision and memory format."""
        return image.to(self.dtype, memory_format=self.memory_format)

    def setup(self, stage: str) -> None:
        """Compare the network's outputs with the data's classes before any step; say how many batches come at once."""
        data = data_of(self.trainer)
        self._image_shape, self._classes = getattr(data, "image_shape", None), getattr(data, "num_classes", None)
        self._is_checked = self._image_shape is not None
        self.check_outputs(self.net, "network")
        if self.weights_from:
            self._compare_with_data(*self.weights_from)
        if stage == "fit" and hasattr(data, "batches_at_once"):
            data.batches_at_once = self.steps_at_once if steps.may_be_taken_at_once(self.trainer) else 1
            self.automatic_optimization = data.batches_at_once == 1
        self.compile_network(self.net)

    def compile_network(self, network: nn.Module) -> None:
        """Compile a network where it is asked for: in place, so that its weights keep their names."""
        if self.compile_by and network not in self._compiled:
            network.compile(backend=self.compile_by)
            self._compiled.append(network)

    def _uncompiled(self) -> AbstractContextManager[Any]:
        """Where two blank images are not worth compiling for."""
        return torch.compiler.set_stance("force_eager") if self.compile_by else nullcontext()

    def check_networks(self) -> None:
        """Check the outputs of all networks; see `check_outputs`."""
        self.check_outputs(self.net, "network")

    def check_outputs(self, network: nn.Module, name: str) -> None:
        """Show two blank images to a network; raise `UserError` if it cannot read them or has other classes.

        Plain data does not say what its images are: then nothing is done before the first batch has come.
        """
        if self._image_shape is None:
            network.to(memory_format=self.memory_format)
            return
        with self._uncompiled():
            logits, self.memory_format = read_blank_images(network, name, self._image_shape, self.memory_format)
        if network is self.net and getattr(network, "aux_logits", False):  # which come in training alone
            raise UserError(f"{name}: {type(network).__name__} gives auxiliary outputs too, aux_logits: false expected")
        self._classes = check_logits(network, name, logits, self._classes, self._whose_classes)

    def _whose_classes(self) -> str:
        return "data" if hasattr(data_of(self.trainer), "num_classes") else "student"

    def _check_by(self, image: Tensor) -> None:
        """Check the networks by the first images (B, ...) of data that does not say what its images are."""
        if not self._is_checked:
            self._image_shape, self._is_checked = tuple(image.shape[1:]), True
            self.check_networks()

    def _received(self, batch: Any) -> Batch:
        """Make a `Batch` of what the loader gave; of plain data, see by the first one whether the networks fit."""
        if isinstance(batch, Batch) and self._is_checked:
            return batch
        batch = as_batch(batch)
        self._check_by(batch.image)
        highest = int(batch.label.max()) if len(batch.label) and batch.label.device.type == "cpu" else 0
        if self._classes and highest >= self._classes:
            raise UserError(f"data: label {highest} found, 0 to {self._classes - 1} expected (the network's classes)")
        return batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the steps to come depend on, besides what Lightning keeps; and what the network is trained on."""
        if description := describe(data_of(self.trainer)):
            checkpoint.setdefault(KEY, {"network": None, **description.plain()})  # `Describer` knows the network
        if self._training:
            checkpoint[resuming.KEY] = self._training
        if gradients := steps.pending_gradients(self):
            checkpoint["gradients"] = gradients
        checkpoint["monitored"] = steps.monitored(self.trainer)
        checkpoint["random"] = randomness.states(self.device)
        checkpoint["train_means"] = self.train_means.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what a resumed training has to begin with; compare what the network was trained on with the data.

        Raises:
            UserError: the data has the same classes in another order; or, to go on training, it is other data.
        """
        if self._trainer is None:  # by `load_from_checkpoint`: what is trained then begins anew
            return
        self._compare_with_data(self.trainer.ckpt_path, checkpoint.get(KEY))
        if self.trainer.state.fn != TrainerFn.FITTING:
            resuming.take_averages(self.trainer)
            return
        kept_parts = ("random", "train_means", "gradients", "monitored")
        self._resumed = {name: checkpoint[name] for name in kept_parts if name in checkpoint}
        if not self.check_resumable(checkpoint):
            return
        kept = checkpoint[resuming.KEY]
        if isinstance(kept["seed"], int):
            os.environ[resuming.SEED] = str(kept["seed"])  # that of the order of the images
        # Lightning would give the checkpoint's schedule to this run, whose schedule or length may be another.
        self._resumed["schedule"] = kept["schedule"], checkpoint["lr_schedulers"]
        checkpoint["lr_schedulers"] = []
        steps.count_from(checkpoint)

    def check_resumable(self, checkpoint: dict[str, Any]) -> bool:
        """Compare optimizer and schedule with those of a checkpoint that a training is to go on from.

        Returns:
            Whether there is something to compare: not in checkpoints from before 0.2, and not with optimizers of a
            subclass's own.

        Raises:
            UserError: other ones, see `resuming`.
        """
        own = type(self).configure_optimizers is not ClassifierModule.configure_optimizers
        if own or not isinstance(checkpoint.get(resuming.KEY), dict):
            return False
        resuming.check(checkpoint[resuming.KEY], resuming.record(*self._optimizer_and_schedule()))
        return True

    def _compare_with_data(self, file: Any, description: Any) -> None:
        name = f"ckpt_path: {file}"
        try:
            order = compare_with_data(description, data_of(self.trainer), name)
        except UserError as error:
            if self.trainer.training:
                raise
            rank_zero_warn(f"{error}; its figures are of other data than it was trained for")  # as the user chose
            return
        if order is not None:
            trained, ours = listed(description["class_names"]), listed(data_of(self.trainer).class_names)
            raise UserError(f"{name} was trained with the classes {trained}, in this order; the data has {ours}")

    def on_train_start(self) -> None:
        """Go on drawing, and averaging, where the checkpoint's run was."""
        self.train_means.compute()  # empties it of an epoch that an earlier fit cut short
        if self._resumed:
            randomness.restore(self._resumed["random"], self.device)
            self.train_means.load(self._resumed["train_means"], self.device)
            self.trainer.callback_metrics.update(self._resumed.get("monitored", {}))
            resuming.restore_callbacks(self, self.trainer.optimizers[0])
            if "gradients" in self._resumed:
                steps.restore_gradients(self, self._resumed["gradients"])
            if "schedule" in self._resumed:
                self._resume_schedule(*self._resumed["schedule"])
        self._resumed = None

    def _resume_schedule(self, kept: Any, states: list[Any]) -> None:
        """Restore the schedule where it is the checkpoint's; else go on with this run's own."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        config: Any = next(iter(self.trainer.lr_scheduler_configs), None)
        scheduler = config and config.scheduler
        assert self._training is not None
        if resuming.same_schedule(kept, self._training["schedule"]):
            if scheduler is not None:
                scheduler.load_state_dict(states[0])
            return
        step = self.trainer.global_step if config and config.interval == "step" else self.current_epoch
        resuming.go_on_at(step, scheduler, optimizer, self._new_groups)
        rank_zero_info(f"lr_scheduler: this run's own, not the checkpoint's, from step {self.trainer.global_step} on")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """The loss of one batch; or nothing, once all steps that were dealt at once are taken."""
        batch = self._received(batch)
        if self.automatic_optimization:
            return self.loss_of(batch)
        steps.take(self, steps.split(batch, data_of(self.trainer).batch_size), self.loss_of)
        return None

    def loss_of(self, batch: Batch) -> Tensor:
        """The loss of one training batch."""
        try:
            logits = self(batch.image).float()
        except ValueError as error:
            if len(batch.label) > 1:
                raise
            raise UserError(
                f"batch_size: 1 found, from which {type(self.net).__name__} cannot learn ({one_line(error)}), "
                "at least 2 expected"
            ) from error
        parts = self.losses(batch, logits)
        accuracy = (logits.detach().argmax(dim=-1) == batch.label).float().mean()
        if wrong := self.train_means.update({**parts, "accuracy": accuracy}, len(batch.label)):
            self._stop(wrong)
        return parts["loss"]

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means; stop before a checkpoint is written if one of them is no number."""
        so_far = self.train_means.state()
        means, wrong = self.train_means.compute()
        if not self.trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            self.train_means.load(so_far, self.device)  # for the checkpoint of an epoch that was cut short
        if wrong or self._weight_that_is_not_finite():  # what the last step did, no loss has shown yet
            self._stop(wrong)
        self.log_dict({f"train/{name}": value for name, value in means.items()}, sync_dist=True)
        if self.automatic_optimization:
            steps.advance_plateaus(self.trainer)
        else:
            steps.advance(self.trainer, "epoch")

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule; one that watches a figure was stepped at the epoch's end, see `steps.advance_plateaus`."""
        if metric is None or not steps.is_by_epoch(self.trainer, scheduler):
            steps.advance_one(scheduler, *([] if metric is None else [metric]))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measure one batch."""
        self._evaluate(self._received(batch))

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Measure one batch; its logits (B, classes) go to the callbacks."""
        return self._evaluate(self._received(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Class probabilities (B, classes); a batch may be images alone."""
        image = images_of(batch)
        self._check_by(image)
        return self(image).float().softmax(dim=-1)

    def _evaluate(self, batch: Batch) -> Tensor:
        logits = self(batch.image).float()
        self.last_teacher_logits = self.teacher_logits(batch)
        loss = self.evaluation_loss(batch, logits, self.last_teacher_logits)
        self.evaluation.update(logits, batch.label, self.last_teacher_logits, loss)
        return logits

    def evaluation_loss(self, batch: Batch, logits: Tensor, teacher_logits: Tensor | None) -> Tensor | None:
        """The training loss of a validation or test batch, a scalar, from logits (B, classes) that are there already.

        Returns:
            The `loss` of `losses`; None where it needs a teacher that is not there.
        """
        return self.losses(batch, logits)["loss"]

    def on_validation_epoch_end(self) -> None:
        """Log the figures; stop before a checkpoint is written if the likelihood is no number."""
        self._warn_if_constant("validation")
        figures = self.evaluation.compute()
        if not self.trainer.sanity_checking:
            self._stop_unless_finite(figures["nll"])
        self.log_dict({f"val/{name}": value for name, value in figures.items()})

    def on_test_epoch_end(self) -> None:
        """Log the figures."""
        self._warn_if_constant("test")
        self.log_dict({f"test/{name}": value for name, value in self.evaluation.compute().items()})

    def _warn_if_constant(self, where: str) -> None:
        number = self.evaluation.constant_prediction()
        if number is not None and not self.trainer.sanity_checking:
            name = (*getattr(data_of(self.trainer), "class_names", ()), *map(str, range(number + 1)))[number]
            rank_zero_warn(f"{where}: every image is called {name}, whatever it shows: the network has learned nothing")

    def _stop_unless_finite(self, nll: Tensor) -> None:
        if not nll.isfinite():
            raise UserError(f"validation: nll is {nll.item()} in epoch {self.current_epoch}, {REMEDY}")

    def _stop(self, wrong: str = "") -> None:
        """Say what was not finite in training, and whether the step before it is to blame."""
        if weight := self._weight_that_is_not_finite():
            wrong = (
                f"{wrong}, for so is {weight} since the step before," if wrong else f"{weight} is not finite at the end"
            )
        raise UserError(f"training: {wrong} of epoch {self.current_epoch}, {REMEDY}")

    def _weight_that_is_not_finite(self) -> str:
        weights = self.net.named_parameters()
        return next((name for name, weight in weights if not weight.isfinite().all()), "")

    def configure_optimizers(self) -> Any:
        """Build optimizer and schedule for the trainable parameters."""
        optimizer, scheduler = self._optimizer_and_schedule()
        if isinstance(scheduler, CosineDecay) and scheduler.total_steps is None:
            scheduler.run_for(self._steps_of_run())
        self._training = resuming.record(optimizer, scheduler)
        self._new_groups = resuming.options_of_groups(optimizer)
        if scheduler is None:
            return optimizer
        config: dict[str, Any] = {"scheduler": scheduler, "interval": "epoch"}
        if hasattr(scheduler, "total_steps"):
            config["interval"] = "step"
        if isinstance(scheduler, ReduceLROnPlateau):
            if not self.automatic_optimization:
                raise UserError(f"steps_at_once: {self.steps_at_once} found, 1 expected with ReduceLROnPlateau")
            config["monitor"] = scheduler.monitor
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _optimizer_and_schedule(self) -> tuple[Optimizer, Any]:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        # Lightning does not clip gradients that a fused step would unscale.
        trainer = self._trainer
        clipped = trainer and trainer.gradient_clip_val and isinstance(trainer.precision_plugin, MixedPrecision)
        optimizer = self.optimizer(parameters) if clipped else _fused_if_possible(self.optimizer, parameters)
        if trainer and clipped and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise UserError(
                f"optimizer: fused: true found, false expected with gradient_clip_val under {trainer.precision}"
            )
        return optimizer, None if self.lr_scheduler is None else self.lr_scheduler(optimizer)

    def _steps_of_run(self) -> int:
        if self.trainer.max_epochs == -1 and self.trainer.max_steps == -1:
            raise UserError("lr_scheduler: CosineDecay needs the run's length: trainer.max_epochs, or its total_steps")
        if self.automatic_optimization:
            return int(self.trainer.estimated_stepping_batches)
        data = data_of(self.trainer)
        return (self.trainer.max_epochs or 0) * len(batch_sizes(len(data.train_positions), data.batch_size))


def _fused_if_possible(make: Callable[..., Optimizer], parameters: Iterable[Tensor]) -> Optimizer:
    """Make an optimizer, in one fused kernel a step where its class and the parameters' device have one."""
    parameters = list(parameters)
    if getattr(make, "keywords", {}).get("fused") is None:  # what the user chose stays
        try:
            return make(parameters, fused=True)
        except (TypeError, RuntimeError):
            pass  # this optimizer, device or set of options has no fused form
    return make(parameters)
