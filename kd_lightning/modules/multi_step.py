"""Take several steps in one call of `training_step`, as Lightning's overhead exceeds a small network's step."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.callbacks.weight_averaging import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from kd_lightning.batch import Batch, callbacks_of, data_of, epoch_batch_sizes
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.precision import without_autocast


def may_be_taken_at_once(trainer: Trainer) -> bool:
    """Return whether no option of a trainer counts single steps or changes them."""
    return (
        trainer.world_size == 1
        and trainer.accumulate_grad_batches == 1
        and trainer.gradient_clip_val is None
        and trainer.max_steps == -1
        and _is_all(trainer.limit_train_batches)
        and _is_all(trainer.val_check_interval)
        and getattr(trainer.precision_plugin, "scaler", None) is None  # it scales float16 gradients
        and not any(map(_needs_single_steps, callbacks_of(trainer)))
    )


def _needs_single_steps(callback: Callback) -> bool:
    """Return whether a callback changes single steps."""
    hooks = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")
    overrides = any(getattr(type(callback), hook) is not getattr(Callback, hook) for hook in hooks)
    return overrides or isinstance(
        callback, (GradientAccumulationScheduler, StochasticWeightAveraging, WeightAveraging)
    )


def _is_all(part: float) -> bool:
    """Return whether a limit is a whole epoch: the float 1.0, as the integer 1 is one batch."""
    return isinstance(part, float) and part == 1.0


def split(batch: Batch, size: int) -> list[Batch]:
    """Split a batch into the batches of single steps; see `epoch_batch_sizes`."""
    sizes = epoch_batch_sizes(len(batch.label), size)
    parts = ([None] * len(sizes) if tensor is None else tensor[: sum(sizes)].split(sizes) for tensor in batch)
    return [Batch(*part) for part in zip(*parts, strict=True)]


def take(module: LightningModule, batches: list[Batch], loss_of: Callable[[Batch], Tensor]) -> None:
    """Take a step on each batch, and step the schedules that count steps."""
    optimizer: Any = module.optimizers(use_pl_optimizer=False)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for batch in batches:
        for parameter in parameters:  # faster than torch's `zero_grad`, which takes as long as a small layer
            parameter.grad = None
        loss = loss_of(batch)
        with without_autocast(module.device.type):  # Lightning's autocast covers the whole call
            loss.backward()
        optimizer.step()
        torch.clear_autocast_cache()  # it has the weights from before the step
        advance(module.trainer, "step")
    # Lightning counts only its own steps.
    module.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed += len(batches)


def count_from(checkpoint: dict[str, Any]) -> None:
    """Set both of Lightning's step counters, its own and a module's, to a checkpoint's step.

    The resumed training may take several steps at once where the checkpoint's run did not, and vice versa.
    """
    loops = checkpoint["loops"]["fit_loop"]
    for total in (
        loops["epoch_loop.manual_optimization.optim_step_progress"]["total"],
        loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"],
    ):
        total.update(ready=checkpoint["global_step"], completed=checkpoint["global_step"])


def complete_epoch(checkpoint: dict[str, Any]) -> None:
    """Mark an epoch whose batches are all trained as completed in a checkpoint's loop state, in place.

    A checkpoint is written before Lightning completes the epoch. When it resumes with `max_steps`, Lightning continues
    such an epoch: it trains what another number of batches leaves of it, or counts it twice and trains an epoch less.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batches = loops["epoch_loop.batch_progress"]
    if not batches["is_last_batch"]:
        return
    for counts in (loops["epoch_progress"]["current"], loops["epoch_progress"]["total"]):
        counts["completed"] = counts["processed"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False


def advance(trainer: Trainer, interval: str) -> None:
    """Step the schedules of an interval, `step` or `epoch`."""
    for config in trainer.lr_scheduler_configs:
        if config.interval == interval:
            advance_one(config.scheduler)


def advance_one(scheduler: Any, *metric: Any) -> None:
    """Step a schedule; raise `UserError` if it is shorter than the run."""
    try:
        scheduler.step(*metric)
    except ValueError as error:  # of torch's `OneCycleLR`
        raise UserError(
            f"lr_scheduler: {type(scheduler).__name__} is shorter than the run, a larger total_steps expected "
            f"({one_line(error)})"
        ) from error


def advance_plateaus(trainer: Trainer) -> None:
    """Step `ReduceLROnPlateau` schedules, before the epoch's checkpoint is written.

    Lightning steps them after that, and not at all at the end of an epoch in which a training was resumed: each resumed
    training would lose a step of the schedule. Lightning itself reports a metric that is not logged.
    """
    if not trainer.fit_loop.epoch_loop._num_ready_batches_reached():
        return
    for config in trainer.lr_scheduler_configs:
        due = config.interval == "epoch" and (trainer.current_epoch + 1) % config.frequency == 0
        if config.reduce_on_plateau and due and config.monitor in trainer.callback_metrics:
            advance_one(config.scheduler, trainer.callback_metrics[config.monitor])


def is_by_epoch(trainer: Trainer, scheduler: Any) -> bool:
    """Return whether a schedule is stepped every epoch."""
    return any(config.scheduler is scheduler and config.interval == "epoch" for config in trainer.lr_scheduler_configs)


def monitored(trainer: Trainer) -> dict[str, Tensor]:
    """Return the last values of the metrics that schedules monitor, as the next epoch may have no validation."""
    names = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
    return {name: value for name, value in trainer.callback_metrics.items() if name in names}


def pending_gradients(module: LightningModule) -> dict[str, Any]:
    """Return the gradients accumulated since the last step, with `accumulate_grad_batches`.

    Returns:
        The number of batches in a step and, for each process, its gradients by parameter; empty right after a step, and
        for strategies that divide gradients among processes.
    """
    trainer = module.trainer
    is_whole = isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy))
    if not (module.automatic_optimization and is_whole and trainer.fit_loop.epoch_loop._should_accumulate()):
        return {}
    ours = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    if trainer.world_size == 1:
        each = [ours]
    else:
        gathered = {name: trainer.strategy.all_gather(gradient) for name, gradient in ours.items()}
        each = [{name: tensor[rank].clone() for name, tensor in gathered.items()} for rank in range(trainer.world_size)]
    return {"accumulate_grad_batches": trainer.accumulate_grad_batches, "gradients": each}


def restore_gradients(module: LightningModule, saved: dict[str, Any]) -> None:
    """Set the gradients that `pending_gradients` returned.

    Raises:
        UserError: a step has another number of batches.
    """
    found, expected = module.trainer.accumulate_grad_batches, saved["accumulate_grad_batches"]
    if found != expected:
        raise UserError(
            f"accumulate_grad_batches: {found} found, {expected} expected, as in the checkpoint, which was written "
            "between the batches of a step"
        )
    gradients = saved["gradients"][module.trainer.global_rank]
    for name, weight in module.named_parameters():
        if name in gradients:
            weight.grad = gradients[name].to(weight)


def steps_of_run(module: LightningModule, schedule: str) -> int:
    """Return the number of steps of a run, which a schedule needs.

    Raises:
        UserError: the run has no length.
    """
    trainer, data = module.trainer, data_of(module.trainer)
    if trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise UserError(f"lr_scheduler: {schedule} needs the run's length: trainer.max_epochs, or its total_steps")
    if module.automatic_optimization:
        return int(trainer.estimated_stepping_batches)
    return (trainer.max_epochs or 0) * len(epoch_batch_sizes(len(data.train_positions), data.batch_size))
