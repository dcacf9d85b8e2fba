"""The base of all modules: train, evaluate and checkpoint an image classifier."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torch.compiler import list_backends
from torch.optim import Optimizer

from kd_lightning.batch import Batch, as_batch, data_of, images_of
from kd_lightning.checkpoints.description import KEY, describe
from kd_lightning.checkpoints.initial_weights import load_initial_weights
from kd_lightning.checkpoints.weights import NETWORK_PREFIX, resolve_checkpoint
from kd_lightning.errors import UserError
from kd_lightning.modules import loading, multi_step, resuming, sanity
from kd_lightning.modules.fine_tuning import FineTuning
from kd_lightning.modules.hard_loss import HardLoss
from kd_lightning.modules.metrics import EvaluationMetrics, RunningMeans
from kd_lightning.modules.optimizers import build_optimizer
from kd_lightning.schedules import RunSchedule
from kd_lightning.teachers import prepare_inputs, without_own_input
from kd_lightning.utils.network_output import logits_of


class StepOutput(NamedTuple):
    """The result of one forward pass.

    Attributes:
        logits: of the trained network, float32 (B, classes).
        losses: scalars by name: `loss`, which is minimised, and its parts; empty if a teacher is missing.
        teacher_logits: float32 (B, classes); None without a teacher.
    """

    logits: Tensor
    losses: dict[str, Tensor]
    teacher_logits: Tensor | None = None


class ClassifierModule(LightningModule):
    """Train and evaluate a network; subclasses define the losses in `shared_step`.

    Training logs `train/…` once an epoch: every part of the loss, and the accuracy. Validation and test log the
    metrics of `EvaluationMetrics` as `val/…` and `test/…`; their `loss` is the mean of the training loss.

    Args:
        net: images (B, C, H, W) to logits (B, classes).
        optimizer: makes the optimizer from the trainable parameters; fused where optimizer and device support it.
        lr_scheduler: makes the schedule from the optimizer. One that counts `total_steps` (`CosineDecay`,
            `StepDecay`, `OneCycleLR`) is stepped every step, any other every epoch.
        steps_at_once: number of steps that Lightning takes in one call, with the same results as one by one: its
            overhead of a call is as long as a small network's step. Hooks, callbacks and the progress bar then
            count calls. With several devices, or options of the trainer that count or change single steps
            (`max_steps`, `limit_train_batches`, `gradient_clip_val`, …), each step has its own call.
        label_smoothing: probability that the labels' cross-entropy spreads evenly over all classes, in [0, 1).
        class_weights: factors on the cross-entropy of each class, or `balanced`: inverse to the number of training
            images of a class.
        init_from: file of weights from which training starts: a checkpoint, a run folder or published weights; the last
            layer is left out where its classes differ. A resumed training and a test do not read it.
        freeze: parts of the network that are not trained: names of parameters or layers, with `*` for any part. Batch
            norms in them keep their running statistics.
        lr_scale: factor on the learning rate of parts of the network, named as in `freeze`; the first that fits holds.
        decay_norms_and_biases: whether weight decay applies to norms and biases too: all parameters of one dimension.
        compile: whether torch compiles the network, and a teacher, before their first use, or the name of the backend
            (true: `inductor`). It pays off on a GPU, and for long runs. Checkpoints are the same.

    Raises:
        UserError: the network's outputs do not match the data's classes, a loss is not finite, or `steps_at_once` is
            below 1, or above 1 with `ReduceLROnPlateau`.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        steps_at_once: int = 1,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
        init_from: str | None = None,
        freeze: Sequence[str] = (),
        lr_scale: dict[str, float] | None = None,
        decay_norms_and_biases: bool = True,
        compile: bool | str = False,
    ) -> None:
        super().__init__()
        if steps_at_once < 1:
            raise UserError(f"steps_at_once: {steps_at_once} found, at least 1 expected")
        if not isinstance(net, nn.Module):  # a config may name any function
            raise UserError(f"net: {type(net).__name__} found, a network (nn.Module) expected")
        # transformers' and other `from_pretrained` return a network in evaluation mode; Lightning leaves it there.
        if not any(module.training for module in without_own_input(net).modules()):
            net.train()
        self.net = net
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.steps_at_once = steps_at_once
        self.hard_loss = HardLoss(label_smoothing, class_weights)
        self.init_from = init_from
        self.fine_tuning = FineTuning(net, freeze, lr_scale, decay_norms_and_biases)
        self.fine_tuning.keep_statistics()  # Lightning calls `train` on no module
        self.compile_backend = "inductor" if compile is True else compile
        if self.compile_backend and self.compile_backend not in list_backends(exclude_tags=None):
            raise UserError(f"compile: {compile} found, true, false or one of {', '.join(list_backends())} expected")
        self._compiled: list[nn.Module] = []
        self.network_check = sanity.NetworkCheck(bool(self.compile_backend))
        self.train_means = RunningMeans()
        self.evaluation = EvaluationMetrics()
        self.training_state = resuming.TrainingState(self.train_means)
        self._is_initialised = False
        self.weights_from: tuple[str, Any] | None = None
        """File from which the network's weights alone were loaded, and its description."""
        self.last_teacher_logits: Tensor | None = None
        """Of the last evaluated batch, for callbacks."""

    @property
    def trained_network(self) -> nn.Module:
        """The network that a file's weights belong to: `net`, or what is inside its `OwnInput`."""
        assert isinstance(self.net, nn.Module)
        return without_own_input(self.net)

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of the networks and their images."""
        return self.network_check.memory_format

    def setup(self, stage: str) -> None:
        """Check the networks against the data, and choose how many steps are taken at once."""
        data = data_of(self.trainer)
        self._initialise(stage, data)
        prepare_inputs(self.net, data)
        self.network_check.prepare(data)
        self.check_networks(stage == "fit")
        self.hard_loss.prepare(data, fitting=stage == "fit")
        if self.weights_from:
            sanity.check_checkpoint_data(self.trainer, *self.weights_from)
        if stage == "fit" and hasattr(data, "batches_at_once"):
            data.batches_at_once = self.steps_at_once if multi_step.may_be_taken_at_once(self.trainer) else 1
            self.automatic_optimization = data.batches_at_once == 1
        self.compile_network(self.net)

    def _initialise(self, stage: str, data: Any) -> None:
        """Load `init_from`, once, where a training starts anew."""
        if stage == "fit" and self.init_from and not self._is_initialised:
            load_initial_weights(without_own_input(self.net), self.init_from, getattr(data, "class_names", None))
            self._is_initialised = True

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but for frozen batch norms."""
        super().train(mode)
        self.fine_tuning.keep_statistics()
        return self

    def check_networks(self, fitting: bool) -> None:
        """Check the outputs of all networks on blank images; `fitting` in training alone."""
        self.check_outputs(self.net, "network")

    def check_outputs(self, network: nn.Module, name: str) -> None:
        """Check one network; `name` is its role, for errors."""
        self.network_check.check(network, name)

    def compile_network(self, network: nn.Module) -> None:
        """Compile a network if the option is set: in place, so that its weights keep their names."""
        if self.compile_backend and network not in self._compiled:
            network.compile(backend=self.compile_backend)
            self._compiled.append(network)

    def forward(self, image: Tensor) -> Tensor:
        """Compute logits (B, classes) of normalised images (B, C, H, W)."""
        logits: Tensor = logits_of(self.net(self.as_input(image)))
        return logits

    def as_input(self, image: Tensor) -> Tensor:
        """Convert images to the module's precision and memory format."""
        return image.to(self.dtype, memory_format=self.network_check.memory_format)

    @abstractmethod
    def shared_step(self, batch: Batch) -> StepOutput:
        """Run the network on a batch and compute the losses, in training, validation and test."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Return the loss of a batch; None after several steps at once."""
        batch = self._checked(batch)
        if self.automatic_optimization:
            return self._training_loss(batch)
        multi_step.take(self, multi_step.split(batch, data_of(self.trainer).batch_size), self._training_loss)
        return None

    def _training_loss(self, batch: Batch) -> Tensor:
        try:
            logits, losses, _ = self.shared_step(batch)
        except ValueError as error:
            sanity.explain_single_image(self.net, batch, error)
            raise
        accuracy = self.hard_loss.accuracy(logits, batch)
        if not_finite := self.train_means.update({**losses, "accuracy": accuracy}, len(batch.label)):
            sanity.check_finite(self.net, self.current_epoch, not_finite)
        return losses["loss"]

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means; stop before a checkpoint is written if training has diverged."""
        state = self.train_means.state()
        means, not_finite = self.train_means.compute()
        if not self.trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            self.train_means.load(state, self.device)  # for the checkpoint of an epoch that is not over
        sanity.check_finite(self.net, self.current_epoch, not_finite)  # no loss shows what the last step did
        self.log_dict({f"train/{name}": value for name, value in means.items()}, sync_dist=True)
        if self.automatic_optimization:
            multi_step.advance_plateaus(self.trainer)
        else:
            multi_step.advance(self.trainer, "epoch")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Evaluate a batch."""
        self._evaluate(self._checked(batch))

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Evaluate a batch, and return its logits (B, classes) for callbacks."""
        return self._evaluate(self._checked(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return class probabilities (B, classes); a batch may be images alone."""
        image = images_of(batch)
        self._check_first(image)
        return self(image).float().softmax(dim=-1)

    def _evaluate(self, batch: Batch) -> Tensor:
        logits, losses, self.last_teacher_logits = self.shared_step(batch)
        self.evaluation.update(logits, batch.label, self.last_teacher_logits, losses.get("loss"))
        return logits

    def on_validation_epoch_end(self) -> None:
        """Log the metrics; stop before a checkpoint is written if the likelihood is not finite."""
        sanity.warn_if_constant(self.evaluation.constant_prediction(), self.trainer, "validation")
        metrics = self.evaluation.compute()
        if not self.trainer.sanity_checking:
            sanity.check_finite_nll(metrics["nll"], self.current_epoch)
        self.log_dict({f"val/{name}": value for name, value in metrics.items()})

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        sanity.warn_if_constant(self.evaluation.constant_prediction(), self.trainer, "test")
        self.log_dict({f"test/{name}": value for name, value in self.evaluation.compute().items()})

    def _checked(self, batch: Any) -> Batch:
        """Convert a batch to `Batch`; check plain data on its first batch."""
        if isinstance(batch, Batch) and not self.network_check.is_due:
            return batch
        batch = as_batch(batch)
        self._check_first(batch.image)
        self.network_check.check_labels(batch.label)
        return batch

    def _check_first(self, image: Tensor) -> None:
        """Check the networks on the first images (B, ...) of plain data."""
        if self.network_check.is_due:
            self.network_check.image_shape, self.network_check.is_due = tuple(image.shape[1:]), False
            self.check_networks(self.trainer.training)

    def configure_optimizers(self) -> Any:
        """Build optimizer and schedule for the trainable parameters."""
        optimizer, scheduler = self._build_optimizer()
        if isinstance(scheduler, RunSchedule) and scheduler.total_steps is None:
            scheduler.run_for(multi_step.steps_of_run(self, type(scheduler).__name__))
        self.training_state.start(optimizer, scheduler)
        if scheduler is None:
            return optimizer
        config = {"scheduler": scheduler, "interval": "step" if hasattr(scheduler, "total_steps") else "epoch"}
        if isinstance(scheduler, ReduceLROnPlateau):
            if not self.automatic_optimization:
                raise UserError(f"steps_at_once: {self.steps_at_once} found, 1 expected with ReduceLROnPlateau")
            config["monitor"] = scheduler.monitor
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _build_optimizer(self) -> tuple[Optimizer, Any]:
        named = [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]
        parameters: list[Any] = [parameter for _, parameter in named]
        if not self.fine_tuning.is_plain:
            parameters = self.fine_tuning.groups((name.removeprefix(NETWORK_PREFIX), each) for name, each in named)
        return build_optimizer(self.optimizer, self.lr_scheduler, parameters, self._trainer)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule, unless it is a `ReduceLROnPlateau`, which `advance_plateaus` has stepped."""
        if metric is None or not multi_step.is_by_epoch(self.trainer, scheduler):
            multi_step.advance_one(scheduler, *([] if metric is None else [metric]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the description of the data, and what a resumed training needs."""
        if description := describe(data_of(self.trainer)):
            checkpoint.setdefault(KEY, {"network": None, **description.plain()})  # `Describer` adds the network
        self.training_state.save(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint with the data, and prepare to resume the training.

        Raises:
            UserError: the data has the same classes in another order; or, in training, it is other data.
        """
        if self._trainer is None:  # in `load_from_checkpoint`, which resumes nothing
            return
        sanity.check_checkpoint_data(self.trainer, self.trainer.ckpt_path, checkpoint.get(KEY))
        self.training_state.load(self.trainer, checkpoint, self._resumable)

    def on_train_start(self) -> None:
        """Restore the state of a resumed training."""
        self.training_state.restore(self)

    def check_resumable(self, checkpoint: dict[str, Any]) -> bool:
        """Compare a checkpoint's optimizer and schedule with this module's; see `resuming.check`."""
        return resuming.check(checkpoint, self._resumable)

    @property
    def _resumable(self) -> resuming.Build | None:
        is_ours = type(self).configure_optimizers is ClassifierModule.configure_optimizers
        return self._build_optimizer if is_ours else None

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Make a module with the weights of a checkpoint; options that are not given have their defaults.

        Args:
            checkpoint_path: a checkpoint of this package, or a run folder: its best checkpoint, else its last.
            *args: see Lightning's.
            **kwargs: see Lightning's; also the module's arguments, such as `net`.

        Raises:
            UserError: there is no such file, or a required argument is missing; the message has the call to write.
        """
        if isinstance(checkpoint_path, (str, Path)) and "://" not in str(checkpoint_path):
            checkpoint_path = resolve_checkpoint(checkpoint_path, loading.OPTION)
            loading.check_given(cls, checkpoint_path, kwargs)
        loaded: Any = super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        return loaded
