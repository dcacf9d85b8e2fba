"""Distillation losses: tensors in, scalar out. They know no layer, no weight and no batch."""

from kd_lightning.losses.features import CosineHiddenLoss, FeatureMapLoss
from kd_lightning.losses.logits import soft_target_loss, soft_target_losses

__all__ = ["CosineHiddenLoss", "FeatureMapLoss", "soft_target_loss", "soft_target_losses"]
