"""What `__init__.py` offers, in the form that type checkers read."""

# ruff: noqa: F403  # a package's `__all__` is what it offers

from kd_lightning.batch import Batch as Batch
from kd_lightning.callbacks import *
from kd_lightning.data import *
from kd_lightning.errors import UserError as UserError
from kd_lightning.losses import *
from kd_lightning.models import *
from kd_lightning.modules import *
from kd_lightning.schedules import CosineDecay as CosineDecay
from kd_lightning.teachers import EnsembleTeacher as EnsembleTeacher

HOMES: dict[str, tuple[str, ...]]
__all__: list[str]
__version__: str
