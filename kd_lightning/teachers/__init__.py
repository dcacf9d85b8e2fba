"""Teachers: trained networks that students learn from."""

from kd_lightning.teachers.frozen import FrozenTeacher
from kd_lightning.teachers.weights import load_weights, resolve_checkpoint

__all__ = ["FrozenTeacher", "load_weights", "resolve_checkpoint"]
