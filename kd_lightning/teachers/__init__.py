"""Teachers: frozen trained networks, ensembles, networks with an input of their own, and a cache of their outputs."""

from kd_lightning.teachers.cache import LogitCache, uses_batch_statistics
from kd_lightning.teachers.classes import ClassOrder
from kd_lightning.teachers.ensemble import EnsembleTeacher, parts_of
from kd_lightning.teachers.frozen import FrozenTeacher
from kd_lightning.teachers.loading import TeacherPart, load_teacher
from kd_lightning.teachers.own_input import OwnInput, prepare_inputs, read_trained, without_own_input
from kd_lightning.teachers.row_layout import RowLayout

__all__ = [
    "ClassOrder",
    "EnsembleTeacher",
    "FrozenTeacher",
    "LogitCache",
    "OwnInput",
    "RowLayout",
    "TeacherPart",
    "load_teacher",
    "parts_of",
    "prepare_inputs",
    "read_trained",
    "uses_batch_statistics",
    "without_own_input",
]
