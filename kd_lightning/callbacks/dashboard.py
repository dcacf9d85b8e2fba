"""What TensorBoard shows of a training beside its losses and figures."""

import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.utils.tensorboard.summary import hparams

from kd_lightning.batch import Batch, data_of

FIGURES = (
    "test/accuracy",
    "test/errors",
    "test/agreement",
    "test/teacher_kl",
    "test/calibration_error",
    "test/nll",
    "val/accuracy",
    "train/accuracy",
)
"""That stand beside the hyperparameters: the last that a run has logged of each. Five are shown without being asked."""

SHOWN = ("network", "teacher", "temperature", "soft_weight", "seed")
"""Hyperparameters that TensorBoard shows without being asked: of names, it would take the first five."""


def _chart(*tags: str) -> list[Any]:
    return ["Multiline", [f"{tag}$" for tag in tags]]  # each is a regular expression, matched from the start


LAYOUT = {
    "How good it is": {
        "accuracy, in training and on validation images": _chart("train/accuracy", "val/accuracy"),
        "negative log-likelihood of the label, nats": _chart("val/nll", "test/nll"),
        "calibration error": _chart("val/calibration_error", "test/calibration_error"),
    },
    "Loss by part": {
        "total": _chart("train/loss", "val/loss"),
        "hard: from the labels": _chart("train/hard_loss"),
        "soft: from the teacher": _chart("train/soft_loss"),
        "all parts, before their weights": _chart("train/hard_loss", "train/soft_loss", "train/feature_loss"),
    },
    "Beside the teacher": {
        "agreement: images called the same": _chart("val/agreement", "test/agreement"),
        "KL(teacher || student), nats": _chart("val/teacher_kl", "test/teacher_kl"),
    },
    "How it learns": {
        "learning rate": _chart("train/learning_rate"),
        "norm of the parameters": _chart("norm/parameters"),
        "norm of the gradients, of the epoch's last step": _chart("norm/gradients"),
    },
}
"""Of the Custom Scalars tab. Every run has the same, and there TensorBoard draws all of them into each chart."""


class Dashboard(Callback):
    """Adds to TensorBoard what makes runs comparable, once a run or once an epoch: no step takes longer for it.

    For a run: its hyperparameters, under the same names whatever it trains, and the layout of the Custom Scalars tab.
    For an epoch: `train/learning_rate` as it starts, of the first group of parameters; `norm/parameters` as it ends,
    the Euclidean norm of all that is trained; and `norm/gradients`, that of the gradients of its last step.
    """

    def __init__(self) -> None:
        self._figures: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the hyperparameters and the layout."""
        if not trainer.is_global_zero:
            return
        values = hyperparameters(trainer, pl_module)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                writer = logger.experiment
                writer.add_custom_scalars(LAYOUT)
                assert writer.file_writer is not None  # the layout went through it
                # Not through the logger, which would log a figure for each column, before there is any.
                for summary in _table(values):
                    writer.file_writer.add_summary(summary)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the learning rate: an epoch that is resumed does not start again."""
        self._figures["train/learning_rate"] = float(trainer.optimizers[0].param_groups[0].get("lr", 0.0))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the learning rate."""
        self.on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Take the gradients' norm after the epoch's last step: the validation that may follow clears them."""
        if trainer.is_last_batch or trainer.global_step == trainer.max_steps:
            gradients = [parameter.grad for parameter in _trained(pl_module) if parameter.grad is not None]
            self._figures["norm/gradients"] = get_total_norm(gradients)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the learning rate and the norms."""
        self._figures["norm/parameters"] = get_total_norm(_trained(pl_module))
        pl_module.log_dict(self._figures, sync_dist=True)
        self._figures = {}


def _trained(module: LightningModule) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _table(values: dict[str, str | float]) -> tuple[Any, Any]:
    """The columns of TensorBoard's table of hyperparameters, and a run's row in it."""
    columns, row, _ = hparams(values, dict.fromkeys(FIGURES, 0.0))
    plugin = columns.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for column in content.experiment.hparam_infos:
        column.differs = column.name in SHOWN
    plugin.content = content.SerializeToString()
    return columns, row


def hyperparameters(trainer: Trainer, module: LightningModule) -> dict[str, str | float]:
    """What a run was trained with: of every run the same names, or TensorBoard shows those of one run alone.

    A network without a teacher learns from the labels alone: the loss has `hard_weight` 1, and no other part. The seed
    of a run without `seed_everything` is -1: it has none, and a column of numbers has room for nothing else.
    """
    data, optimizer, network = data_of(trainer), trainer.optimizers[0], module.net
    assert isinstance(network, torch.nn.Module)
    return {
        "network": type(network).__name__,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "teacher": str(getattr(module, "teacher_ckpt", "none") or "as built"),
        "temperature": float(getattr(module, "temperature", 1.0)),
        "hard_weight": float(getattr(module, "hard_weight", 1.0)),
        "soft_weight": float(getattr(module, "soft_weight", 0.0)),
        "feature_weight": float(getattr(module, "feature_weight", 0.0)),
        "optimizer": type(optimizer).__name__,
        "lr": float(optimizer.defaults.get("lr", 0.0)),
        "max_epochs": trainer.max_epochs or 0,
        "batch_size": getattr(data, "batch_size", 0),
        "images": len(getattr(data, "train_positions", ())),
        "views": getattr(getattr(data, "views", None), "count", 1),
        "precision": str(trainer.precision),
        "seed": int(os.environ.get("PL_GLOBAL_SEED", "-1")),
    }
