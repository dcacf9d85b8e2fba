"""Several steps in one call from Lightning, whose work around a call takes longer than a small network's step."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from kd_lightning.autocast import without_autocast
from kd_lightning.batch import Batch, batch_sizes


def may_be_taken_at_once(trainer: Trainer) -> bool:
    """Whether nothing that a trainer was asked for counts single steps, or comes between a loss and its step."""
    return (
        trainer.world_size == 1
        and trainer.accumulate_grad_batches == 1
        and trainer.gradient_clip_val is None
        and trainer.max_steps == -1
        and trainer.limit_train_batches == 1.0
        and trainer.val_check_interval == 1.0
        and getattr(trainer.precision_plugin, "scaler", None) is None  # of float16's gradients
    )


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


def advance(trainer: Trainer, interval: str) -> None:
    """Move the schedules that go by the step, or by the epoch."""
    for config in trainer.lr_scheduler_configs:
        if config.interval == interval:
            scheduler: Any = config.scheduler
            scheduler.step()
