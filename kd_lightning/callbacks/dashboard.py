"""Hyperparameters, TensorBoard's chart layout, learning rate and norms."""

import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.utils.tensorboard.summary import hparams

from kd_lightning.batch import Batch, data_of
from kd_lightning.schedules import Value, ValueSchedule, epochs_of

METRICS = (
    "test/accuracy",
    "test/errors",
    "test/agreement",
    "test/teacher_kl",
    "test/calibration_error",
    "test/nll",
    "test/macro_f1",
    "test/balanced_accuracy",
    "val/accuracy",
    "train/accuracy",
)
"""Metrics in the table of hyperparameters, each with the last logged value. TensorBoard first shows the first five."""

SHOWN = ("network", "teacher", "temperature", "soft_weight", "seed")
"""Hyperparameters that TensorBoard first shows; its own choice is the first five names."""


def _chart(*tags: str) -> list[Any]:
    return ["Multiline", [f"{tag}$" for tag in tags]]  # each is a regular expression, matched from the start


LAYOUT = {
    "Quality": {
        "accuracy, training and validation": _chart("train/accuracy", "val/accuracy"),
        "macro-F1 and balanced accuracy": _chart("val/macro_f1", "val/balanced_accuracy"),
        "negative log-likelihood of the label, nats": _chart("val/nll", "test/nll"),
        "calibration error": _chart("val/calibration_error", "test/calibration_error"),
    },
    "Loss by part": {
        "total loss": _chart("train/loss", "val/loss"),
        "hard loss, from the labels": _chart("train/hard_loss"),
        "soft loss, from the teacher": _chart("train/soft_loss"),
        "all parts, unweighted": _chart("train/hard_loss", "train/soft_loss", "train/feature_loss"),
    },
    "Comparison with the teacher": {
        "agreement: images with the same predicted class": _chart("val/agreement", "test/agreement"),
        "KL(teacher || student), nats": _chart("val/teacher_kl", "test/teacher_kl"),
    },
    "Optimization": {
        "learning rate": _chart("train/learning_rate"),
        "parameter norm": _chart("norm/parameters"),
        "gradient norm, last step of the epoch": _chart("norm/gradients"),
    },
}
"""Layout of the Custom Scalars tab, the same for every run: each chart then shows all runs."""


class Dashboard(Callback):
    """Writes hyperparameters, learning rate and norms to each logger, and a chart layout to TensorBoard.

    - Once per run: the hyperparameters, with the same names for every run, and the layout of the Custom Scalars tab.
    - Once per epoch: `train/learning_rate` at its start, of the first parameter group; `norm/parameters` at its end,
      the Euclidean norm of all trained parameters; `norm/gradients`, that of the gradients in its last step.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the hyperparameters and the layout."""
        if not trainer.is_global_zero:
            return
        values = hyperparameters(trainer, pl_module)
        for logger in trainer.loggers:
            if isinstance(logger, MLFlowLogger):  # refuses a second value, as of a resumed training's `max_epochs`
                known = logger.experiment.get_run(str(logger.run_id)).data.params
                logger.log_hyperparams({name: value for name, value in values.items() if name not in known})
            elif not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(values)
            else:
                writer = logger.experiment
                writer.add_custom_scalars(LAYOUT)
                assert writer.file_writer is not None  # created by add_custom_scalars
                # The logger would also log a value of each metric, before there is one.
                for summary in _table(values):
                    writer.file_writer.add_summary(summary)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the learning rate, also of a resumed epoch, for which `on_train_epoch_start` is not called."""
        self._metrics["train/learning_rate"] = float(trainer.optimizers[0].param_groups[0].get("lr", 0.0))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the learning rate."""
        self.on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Record the gradient norm of the epoch's last step, before a validation clears the gradients."""
        if trainer.is_last_batch or trainer.global_step == trainer.max_steps:
            gradients = [parameter.grad for parameter in _trained(pl_module) if parameter.grad is not None]
            self._metrics["norm/gradients"] = get_total_norm(gradients)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the learning rate and both norms."""
        self._metrics["norm/parameters"] = get_total_norm(_trained(pl_module))
        pl_module.log_dict(self._metrics, sync_dist=True)
        self._metrics = {}


def _trained(module: LightningModule) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _table(values: dict[str, str | float]) -> tuple[Any, Any]:
    """Return the columns of TensorBoard's hyperparameter table, and the row of this run."""
    columns, row, _ = hparams(values, dict.fromkeys(METRICS, 0.0))
    plugin = columns.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for column in content.experiment.hparam_infos:
        column.differs = column.name in SHOWN
    plugin.content = content.SerializeToString()
    return columns, row


def _last(value: Value, trainer: Trainer) -> float:
    """Return a number, or the value of a schedule in the last epoch: a column holds numbers only."""
    epochs = epochs_of(trainer)
    return value.at((epochs or 1) - 1, epochs) if isinstance(value, ValueSchedule) else float(value)


def hyperparameters(trainer: Trainer, module: LightningModule) -> dict[str, str | float]:
    """Return the hyperparameters of a run, with the same names for every run: TensorBoard needs them equal.

    Without a teacher, `hard_weight` is 1 and the other weights are 0. Without `seed_everything`, the seed is -1: the
    column holds numbers only.
    """
    data, optimizer, network = data_of(trainer), trainer.optimizers[0], module.net
    assert isinstance(network, torch.nn.Module)
    return {
        "network": type(network).__name__,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "teacher": str(getattr(module, "teacher_ckpt", "none") or "as built"),
        "temperature": _last(getattr(module, "temperature", 1.0), trainer),
        "hard_weight": _last(getattr(module, "hard_weight", 1.0), trainer),
        "soft_weight": _last(getattr(module, "soft_weight", 0.0), trainer),
        "feature_weight": _last(getattr(module, "feature_weight", 0.0), trainer),
        "optimizer": type(optimizer).__name__,
        "lr": float(optimizer.defaults.get("lr", 0.0)),
        "max_epochs": trainer.max_epochs or 0,
        "batch_size": getattr(data, "batch_size", 0),
        "images": len(getattr(data, "train_positions", ())),
        "views": getattr(getattr(data, "views", None), "count", 1),
        "precision": str(trainer.precision),
        "seed": int(os.environ.get("PL_GLOBAL_SEED", "-1")),
    }
