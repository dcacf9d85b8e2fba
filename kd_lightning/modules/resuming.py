"""Save what a resumed training needs in its checkpoint, and restore it.

    {"training": {"optimizer": {"name": NAME, "options": {OPTION: VALUE}},
                  "schedule": {"name": NAME, "options": {OPTION: VALUE}},   # None without a schedule
                  "seed": NUMBER}}   # of seed_everything; None if it was not set

The optimizer and its options must be the same: its state would not fit, or the record of the run would be wrong. The
schedule may change, and so may the length of the run, which a schedule may depend on: the training continues at the
step that it had reached, with the learning rate that the new schedule has there.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, GradientAccumulationScheduler
from lightning.pytorch.callbacks.weight_averaging import WeightAveraging
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

from kd_lightning.batch import callbacks_of
from kd_lightning.errors import UserError
from kd_lightning.modules import multi_step, rng_state
from kd_lightning.modules.metrics import RunningMeans

KEY = "training"
"""Key of the record in a checkpoint."""

SEED = "PL_GLOBAL_SEED"
"""The environment variable in which Lightning's `seed_everything` stores the seed."""

IMPLEMENTATION_OPTIONS = ("fused", "foreach", "capturable", "differentiable")
"""Options of an optimizer that choose between implementations of the same computation."""

Build = Callable[[], tuple[Optimizer, Any]]
"""Makes a new optimizer, and a new schedule or None."""


class TrainingState:
    """Save and restore the state of a training, besides what Lightning saves.

    Args:
        means: of the training epoch.
    """

    def __init__(self, means: RunningMeans) -> None:
        self._means = means
        self._record: dict[str, Any] | None = None
        self._new_groups: list[dict[str, Any]] = []
        self._saved: dict[str, Any] | None = None

    def start(self, optimizer: Optimizer, scheduler: Any) -> None:
        """Record a new optimizer and schedule for the checkpoints of this run."""
        self._record = record(optimizer, scheduler)
        self._new_groups = _options_of_groups(optimizer)

    def save(self, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the state to a checkpoint."""
        if self._record:
            checkpoint[KEY] = self._record
        if gradients := multi_step.pending_gradients(module):
            checkpoint["gradients"] = gradients
        checkpoint["monitored"] = multi_step.monitored(module.trainer)
        checkpoint["random"] = rng_state.states(module.device)
        checkpoint["train_means"] = self._means.state()

    def load(self, trainer: Trainer, checkpoint: dict[str, Any], build: Build | None) -> None:
        """Take the state from a checkpoint; `restore` sets it when the training starts.

        Args:
            trainer: of this run; unless it trains, only averaged weights are prepared.
            checkpoint: as Lightning loads it; what Lightning must not restore itself is taken out.
            build: makes the run's optimizer and schedule; None where a subclass makes them.

        Raises:
            UserError: see `check`.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            _use_averaged_weights(trainer)
            return
        self._saved = {
            name: checkpoint[name] for name in ("random", "train_means", "gradients", "monitored") if name in checkpoint
        }
        if trainer.max_steps != -1:
            multi_step.complete_epoch(checkpoint)
        if not check(checkpoint, build):
            return
        saved = checkpoint[KEY]
        if isinstance(saved["seed"], int):
            os.environ[SEED] = str(saved["seed"])  # determines the order of the images
        # Lightning would load the checkpoint's schedule into this run's, which may be another or of another length.
        self._saved["schedule"] = saved["schedule"], checkpoint["lr_schedulers"]
        checkpoint["lr_schedulers"] = []
        multi_step.count_from(checkpoint)

    def restore(self, module: LightningModule) -> None:
        """Continue where the checkpoint's run was, if there is one."""
        self._means.compute()  # resets them, as an earlier fit may have ended within an epoch
        if saved := self._saved:
            rng_state.restore(saved["random"], module.device)
            self._means.load(saved["train_means"], module.device)
            module.trainer.callback_metrics.update(saved.get("monitored", {}))
            _restore_callbacks(module, module.trainer.optimizers[0])
            if "gradients" in saved:
                multi_step.restore_gradients(module, saved["gradients"])
            if "schedule" in saved:
                self._restore_schedule(module, *saved["schedule"])
        self._saved = None

    def _restore_schedule(self, module: LightningModule, saved: Any, states: list[Any]) -> None:
        """Restore the checkpoint's schedule if this run has the same one; else advance this run's own."""
        trainer = module.trainer
        optimizer: Any = module.optimizers(use_pl_optimizer=False)
        config: Any = next(iter(trainer.lr_scheduler_configs), None)
        scheduler = config and config.scheduler
        assert self._record is not None
        if _same_schedule(saved, self._record["schedule"]):
            if scheduler is not None:
                scheduler.load_state_dict(states[0])
            return
        step = trainer.global_step if config and config.interval == "step" else module.current_epoch
        _advance(scheduler, step, optimizer, self._new_groups)
        rank_zero_info(f"lr_scheduler: this run's own, not the checkpoint's, from step {trainer.global_step} on")


def record(optimizer: Optimizer, scheduler: Any) -> dict[str, Any]:
    """Describe a new optimizer and its schedule in plain types that a checkpoint may contain."""
    options = {name: value for name, value in optimizer.defaults.items() if name not in IMPLEMENTATION_OPTIONS}
    options["groups"] = [len(group["params"]) for group in optimizer.param_groups]
    schedule = None if scheduler is None else _named(scheduler, scheduler.state_dict())
    seed = int(os.environ[SEED]) if SEED in os.environ else None
    return {"optimizer": _named(optimizer, options), "schedule": schedule, "seed": seed}


def check(checkpoint: dict[str, Any], build: Build | None) -> bool:
    """Compare a checkpoint's optimizer and schedule with those of the run that resumes from it.

    Returns:
        Whether both can be compared: not if a subclass makes its own, nor for checkpoints of versions before 0.2.

    Raises:
        UserError: the optimizer or its options differ; or the options of `ReduceLROnPlateau`, whose learning rate
            depends on earlier metrics.
    """
    saved = checkpoint.get(KEY)
    if build is None or not isinstance(saved, dict):
        return False
    ours = record(*build())
    try:
        differences = _differences("optimizer", saved["optimizer"], ours["optimizer"])
        schedules = saved["schedule"], ours["schedule"]
        if all(schedule and schedule["name"] == ReduceLROnPlateau.__name__ for schedule in schedules):
            differences += _differences("lr_scheduler", *schedules)
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError("ckpt_path: the checkpoint's record of optimizer and schedule cannot be read") from error
    if differences:
        raise UserError(
            f"{'; '.join(differences)}, as in the checkpoint: a resumed training keeps its optimizer; "
            "to change it, train anew, without --ckpt_path"
        )
    return True


def _same_schedule(saved: dict[str, Any] | None, ours: dict[str, Any] | None) -> bool:
    """Return whether two records are of one schedule; options that only one version of torch has are ignored."""
    return saved == ours or bool(saved and ours and not _differences("lr_scheduler", saved, ours))


def _advance(scheduler: Any, step: int, optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    """Bring a new schedule to the step that the training has reached.

    Args:
        scheduler: the new schedule; None if the learning rate is constant.
        step: how often the schedule would have been stepped.
        optimizer: the schedule's optimizer, with the checkpoint's state.
        groups: options of the optimizer's parameter groups when the schedule was made.
    """
    for group, new in zip(optimizer.param_groups, groups, strict=False):  # a callback may have added groups
        group.update(new)
    if scheduler is None or isinstance(scheduler, ReduceLROnPlateau):
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")  # before a step of the optimizer
        for _ in range(step):
            scheduler.step()


def _restore_callbacks(module: LightningModule, optimizer: Optimizer) -> None:
    """Redo what Lightning's callbacks do only at the start of an epoch.

    Layers that a finetuning callback has unfrozen are trained, and a scheduled accumulation is that of the epoch.
    """
    trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    for callback in callbacks_of(module.trainer):
        if isinstance(callback, BaseFinetuning):
            layers = [
                layer
                for layer in module.modules()
                if trained & {id(weight) for weight in layer.parameters(recurse=False)}
            ]
            callback.make_trainable(layers)
        if isinstance(callback, GradientAccumulationScheduler):
            epoch = module.current_epoch
            module.trainer.accumulate_grad_batches = callback.get_accumulate_grad_batches(epoch)


def _use_averaged_weights(trainer: Trainer) -> None:
    """Have a checkpoint's averaged weights evaluated, even after a training in the same process.

    Lightning would otherwise load the weights before averaging, with which a training continues.
    """
    for callback in callbacks_of(trainer):
        if isinstance(callback, WeightAveraging):
            callback._average_model = None


def _options_of_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the options of each parameter group, without its parameters."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def _named(part: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": type(part).__name__, "options": _plain(options)}


def _plain(value: Any) -> Any:
    """Convert to numbers, strings, lists and dictionaries; anything else to the name of its type."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or type(value) in (bool, int, float, str) else type(value).__name__


def _differences(part: str, saved: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    if saved["name"] != ours["name"]:
        return [f"{part}: {ours['name']} found, {saved['name']} expected"]
    old, new = saved["options"], ours["options"]
    return [
        f"{part}.{name}: {value} found, {old[name]} expected"
        for name, value in new.items()
        if name in old and value != old[name]
    ]
