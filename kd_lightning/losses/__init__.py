"""Distillation losses: tensors in, scalar out. They know no layer, no weight and no batch."""

# ruff: noqa: F403  # each file's `__all__` lists its losses

from kd_lightning.losses import (
    attention,
    contrastive,
    correlation,
    decoupled,
    features,
    labels,
    logits,
    relations,
    review,
)
from kd_lightning.losses.attention import *
from kd_lightning.losses.contrastive import *
from kd_lightning.losses.correlation import *
from kd_lightning.losses.decoupled import *
from kd_lightning.losses.features import *
from kd_lightning.losses.labels import *
from kd_lightning.losses.logits import *
from kd_lightning.losses.relations import *
from kd_lightning.losses.review import *

__all__ = []
__all__ += attention.__all__
__all__ += contrastive.__all__
__all__ += correlation.__all__
__all__ += decoupled.__all__
__all__ += features.__all__
__all__ += labels.__all__
__all__ += logits.__all__
__all__ += relations.__all__
__all__ += review.__all__
