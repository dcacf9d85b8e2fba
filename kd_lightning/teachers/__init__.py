"""Teachers: frozen trained networks, ensembles of them, and a cache of their logits."""

from kd_lightning.teachers.cache import LogitCache, uses_batch_statistics
from kd_lightning.teachers.ensemble import EnsembleTeacher, parts_of
from kd_lightning.teachers.frozen import FrozenTeacher

__all__ = ["EnsembleTeacher", "FrozenTeacher", "LogitCache", "parts_of", "uses_batch_statistics"]
