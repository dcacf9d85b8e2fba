"""Distillation losses: tensors in, scalar out. They know no layer, no weight and no batch."""

from kd_lightning.losses.soft import soft_target_loss

__all__ = ["soft_target_loss"]
