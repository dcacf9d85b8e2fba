"""Several steps in one call from Lightning, whose work around a call takes longer than a small network's step."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.callbacks.weight_averaging import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from kd_lightning.batch import Batch, batch_sizes, callbacks_of
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.precision import without_autocast


def may_be_taken_at_once(trainer: Trainer) -> bool:
    """Whether nothing that a trainer was asked for counts single steps, or comes between a loss and its step."""
    return (
        trainer.world_size == 1
        and trainer.accumulate_grad_batches == 1
        and trainer.gradient_clip_val is None
        and trainer.max_steps == -1
        and _is_all(trainer.limit_train_batches)
        and _is_all(trainer.val_check_interval)
        and getattr(trainer.precision_plugin, "scaler", None) is None  # of float16's gradients
        and not any(map(_needs_single_steps, callbacks_of(trainer)))
    )


def _needs_single_steps(callback: Callback) -> bool:
    """Whether a callback does something between a batch and its step, or after each step, that is no mere look."""
    hooks = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")
    overrides = any(getattr(type(callback), hook) is not getattr(Callback, hook) for hook in hooks)
    return overrides or isinstance(
        callback, (GradientAccumulationScheduler, StochasticWeightAveraging, WeightAveraging)
    )


def _is_all(part: float) -> bool:
    """Whether an option is of a whole epoch: 1.0, not the whole number 1, which is of one batch."""
    return isinstance(part, float) and part == 1.0


def split(batch: Batch, size: int) -> list[Batch]:
    """Take a batch apart into those that would have been dealt one by one; see `batch_sizes`."""
    sizes = batch_sizes(len(batch.label), size)
    return [Batch(*part) for part in zip(*(tensor[: sum(sizes)].split(sizes) for tensor in batch), strict=True)]


def take(module: LightningModule, batches: list[Batch], loss_of: Callable[[Batch], Tensor]) -> None:
    """Take a step down the loss of each batch, with the schedule that goes by the step."""
    optimizer: Any = module.optimizers(use_pl_optimizer=False)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for batch in batches:
        for parameter in parameters:  # torch's `zero_grad` takes as long as this network's last layer
            parameter.grad = None
        loss = loss_of(batch)
        with without_autocast(module.device.type):  # Lightning's is around the whole call
            loss.backward()
        optimizer.step()
        torch.clear_autocast_cache()  # it holds the weights of before the step
        advance(module.trainer, "step")
    # Lightning counts the steps alone that it takes itself.
    module.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed += len(batches)


def count_from(checkpoint: dict[str, Any]) -> None:
    """Let a training go on from a checkpoint's step, whether or not it takes its steps as the checkpoint's run did.

    Lightning counts the steps that it takes itself, and those that a module takes, in two places.
    """
    loops = checkpoint["loops"]["fit_loop"]
    for total in (
        loops["epoch_loop.manual_optimization.optim_step_progress"]["total"],
        loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"],
    ):
        total.update(ready=checkpoint["global_step"], completed=checkpoint["global_step"])


def advance(trainer: Trainer, interval: str) -> None:
    """Move the schedules that go by the step, or by the epoch."""
    for config in trainer.lr_scheduler_configs:
        if config.interval == interval:
            advance_one(config.scheduler)


def advance_one(scheduler: Any, *figure: Any) -> None:
    """Step a schedule; raise `UserError` where it is shorter than the run."""
    try:
        scheduler.step(*figure)
    except ValueError as error:  # of torch's `OneCycleLR`
        raise UserError(
            f"lr_scheduler: {type(scheduler).__name__} is shorter than the run, a larger total_steps expected "
            f"({one_line(error)})"
        ) from error


def advance_plateaus(trainer: Trainer) -> None:
    """Step the schedules that watch a figure, before the epoch's checkpoint is written.

    Lightning steps them after that, and not at all at the end of an epoch in which a training was resumed: each resumed
    training would lose a step of the schedule. Where the figure is not logged, Lightning says so a moment later.
    """
    if not trainer.fit_loop.epoch_loop._num_ready_batches_reached():
        return
    for config in trainer.lr_scheduler_configs:
        due = config.interval == "epoch" and (trainer.current_epoch + 1) % config.frequency == 0
        if config.reduce_on_plateau and due and config.monitor in trainer.callback_metrics:
            advance_one(config.scheduler, trainer.callback_metrics[config.monitor])


def is_by_epoch(trainer: Trainer, scheduler: Any) -> bool:
    """Whether a schedule goes by the epoch, not by the step."""
    return any(config.scheduler is scheduler and config.interval == "epoch" for config in trainer.lr_scheduler_configs)


def monitored(trainer: Trainer) -> dict[str, Tensor]:
    """The figures that schedules watch, as last measured: the next epoch may not validate."""
    names = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
    return {name: value for name, value in trainer.callback_metrics.items() if name in names}


def pending_gradients(module: LightningModule) -> dict[str, Any]:
    """The gradients of batches since the last step, where `accumulate_grad_batches` puts several into a step.

    Returns:
        The number of batches in a step and, of each process, its gradients by parameter; empty where the last batch
        was a step's last, and for strategies that keep a part of each gradient.
    """
    trainer = module.trainer
    whole = isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy))
    if not (module.automatic_optimization and whole and trainer.fit_loop.epoch_loop._should_accumulate()):
        return {}
    ours = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    if trainer.world_size == 1:
        each = [ours]
    else:
        gathered = {name: trainer.strategy.all_gather(gradient) for name, gradient in ours.items()}
        each = [{name: tensor[rank].clone() for name, tensor in gathered.items()} for rank in range(trainer.world_size)]
    return {"accumulate_grad_batches": trainer.accumulate_grad_batches, "gradients": each}


def restore_gradients(module: LightningModule, kept: dict[str, Any]) -> None:
    """Put back what `pending_gradients` gave.

    Raises:
        UserError: a step has another number of batches, or there is another number of processes.
    """
    found, expected = module.trainer.accumulate_grad_batches, kept["accumulate_grad_batches"]
    if found != expected:
        raise UserError(
            f"accumulate_grad_batches: {found} found, {expected} expected, as in the checkpoint, which was written "
            "between the batches of a step"
        )
    gradients = kept["gradients"][module.trainer.global_rank]
    for name, weight in module.named_parameters():
        if name in gradients:
            weight.grad = gradients[name].to(weight)
