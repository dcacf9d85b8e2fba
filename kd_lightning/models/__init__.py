"""The networks of the published systems: plain `nn.Module`s."""

from kd_lightning.models.cnn import CNN
from kd_lightning.models.dropout import Dropout
from kd_lightning.models.mlp import MLP

__all__ = ["CNN", "MLP", "Dropout"]
