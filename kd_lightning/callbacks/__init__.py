"""Callbacks: results, checkpoints, TensorBoard, plots of a test, predictions and bias correction."""

from kd_lightning.callbacks.best_checkpoint import BestCheckpoint
from kd_lightning.callbacks.bias_correction import BiasCorrection
from kd_lightning.callbacks.dashboard import Dashboard
from kd_lightning.callbacks.last_checkpoint import LastCheckpoint
from kd_lightning.callbacks.plots.confusion import ConfusionMatrix
from kd_lightning.callbacks.plots.gallery import Gallery
from kd_lightning.callbacks.plots.mistakes import WorstMistakes
from kd_lightning.callbacks.plots.reliability import ReliabilityDiagram
from kd_lightning.callbacks.predictions import PredictionWriter
from kd_lightning.callbacks.results import ResultsWriter
from kd_lightning.checkpoints.describer import Describer

__all__ = [
    "BestCheckpoint",
    "BiasCorrection",
    "ConfusionMatrix",
    "Dashboard",
    "Describer",
    "Gallery",
    "LastCheckpoint",
    "PredictionWriter",
    "ReliabilityDiagram",
    "ResultsWriter",
    "WorstMistakes",
]
