"""Teachers: trained networks that students learn from."""

from kd_lightning.checkpoints.weights import is_of_module, load_weights, resolve_checkpoint
from kd_lightning.teachers.cached import CachedTeacher, table_file, uses_batch_statistics
from kd_lightning.teachers.ensemble import EnsembleTeacher, parts_of
from kd_lightning.teachers.frozen import FrozenTeacher

__all__ = [
    "CachedTeacher",
    "EnsembleTeacher",
    "FrozenTeacher",
    "is_of_module",
    "load_weights",
    "parts_of",
    "resolve_checkpoint",
    "table_file",
    "uses_batch_statistics",
]
