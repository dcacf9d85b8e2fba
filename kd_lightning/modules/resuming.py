"""What a resumed training must have in common with the one that wrote its checkpoint, and what it may change.

    {"training": {"optimizer": {"name": NAME, "options": {OPTION: VALUE}},
                  "schedule": {"name": NAME, "options": {OPTION: VALUE}},   # None without a schedule
                  "seed": NUMBER}}   # of seed_everything; None where none was set

The optimizer and its options must be the same: its state would not fit, or the record of the run would be wrong. The
schedule may change, and so may the length of the run, which a schedule may depend on: the training goes on at the step
that it had reached, with the learning rate that the changed schedule has there.
"""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, GradientAccumulationScheduler
from lightning.pytorch.callbacks.weight_averaging import WeightAveraging
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim import Optimizer

from kd_lightning.batch import callbacks_of
from kd_lightning.errors import UserError

KEY = "training"
"""Under which a checkpoint keeps it."""

SEED = "PL_GLOBAL_SEED"
"""The environment variable in which Lightning's `seed_everything` leaves its seed."""

FORMS = ("fused", "foreach", "capturable", "differentiable")
"""Options of an optimizer that choose between forms of the same computation."""


def record(optimizer: Optimizer, scheduler: Any) -> dict[str, Any]:
    """Describe an optimizer and its schedule, both new, in plain types that a checkpoint may hold."""
    options = {name: value for name, value in optimizer.defaults.items() if name not in FORMS}
    schedule = None if scheduler is None else _named(scheduler, scheduler.state_dict())
    seed = int(os.environ[SEED]) if SEED in os.environ else None
    return {"optimizer": _named(optimizer, options), "schedule": schedule, "seed": seed}


def check(kept: Any, ours: dict[str, Any]) -> None:
    """Compare a checkpoint's record with that of the training that is to go on from it.

    Raises:
        UserError: another optimizer, or other options of it; or other options of `ReduceLROnPlateau`, whose rate
            depends on figures that are gone.
    """
    try:
        differing = _differing("optimizer", kept["optimizer"], ours["optimizer"])
        schedules = kept["schedule"], ours["schedule"]
        if all(schedule and schedule["name"] == ReduceLROnPlateau.__name__ for schedule in schedules):
            differing += _differing("lr_scheduler", *schedules)
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError("ckpt_path: the checkpoint's record of optimizer and schedule cannot be read") from error
    if differing:
        raise UserError(
            f"{'; '.join(differing)}, as in the checkpoint: a resumed training keeps its optimizer; "
            "to change it, train anew, without --ckpt_path"
        )


def same_schedule(kept: dict[str, Any] | None, ours: dict[str, Any] | None) -> bool:
    """Whether two records are of one schedule; an option that only one of them has is of another version of torch."""
    return kept == ours or bool(kept and ours and not _differing("lr_scheduler", kept, ours))


def go_on_at(step: int, scheduler: Any, optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    """Bring a new schedule to the step that a training has reached, as if it had been its schedule from the start.

    Args:
        step: how often the schedule would have been stepped.
        scheduler: new; None where the learning rate is constant.
        optimizer: of the schedule, with the state of the checkpoint.
        groups: options of the optimizer's parameter groups, as they were when the schedule was made.
    """
    for group, new in zip(optimizer.param_groups, groups, strict=False):  # a callback may have added groups
        group.update(new)
    if scheduler is None or isinstance(scheduler, ReduceLROnPlateau):
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")  # before a step of the optimizer
        for _ in range(step):
            scheduler.step()


def restore_callbacks(module: LightningModule, optimizer: Optimizer) -> None:
    """Do for Lightning's callbacks what they do at the start of an epoch that a resumed training is in already.

    The layers that a finetuning has unfrozen are trained on; a scheduled accumulation is the epoch's.
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


def take_averages(trainer: Trainer) -> None:
    """Let a checkpoint's averaged weights be those that are measured, behind a training in the same process too.

    Lightning would load the weights that were averaged, from which a training goes on.
    """
    for callback in callbacks_of(trainer):
        if isinstance(callback, WeightAveraging):
            callback._average_model = None


def options_of_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The options of each parameter group, without its parameters."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def _named(part: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": type(part).__name__, "options": _plain(options)}


def _plain(value: Any) -> Any:
    """Numbers, words, and lists and dictionaries of them; of anything else, the name of its type."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or type(value) in (bool, int, float, str) else type(value).__name__


def _differing(part: str, kept: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    if kept["name"] != ours["name"]:
        return [f"{part}: {ours['name']} found, {kept['name']} expected"]
    old, new = kept["options"], ours["options"]
    return [
        f"{part}.{name}: {value} found, {old[name]} expected"
        for name, value in new.items()
        if name in old and value != old[name]
    ]
