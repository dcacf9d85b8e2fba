"""Lightning modules: what is trained, with which losses and metrics."""

from kd_lightning.modules.classifier import ClassifierModule
from kd_lightning.modules.distill import DistillModule
from kd_lightning.modules.loss_terms import FeatureMatch, WeightedLoss
from kd_lightning.modules.stacked_students import PopulationModule
from kd_lightning.modules.teacher import TeacherModule

__all__ = ["ClassifierModule", "DistillModule", "FeatureMatch", "PopulationModule", "TeacherModule", "WeightedLoss"]
