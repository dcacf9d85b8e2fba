"""A trained network on its own: made again from its checkpoint, and exported to run without this project."""

from kd_lightning.checkpoints.description import Description, describe
from kd_lightning.export.classifier import ImageClassifier
from kd_lightning.export.export import export_checked, export_int8, export_network
from kd_lightning.export.formats import ONNX_PACKAGES, SUFFIXES, need_packages, open_exported
from kd_lightning.export.int8 import CALIBRATION_IMAGES
from kd_lightning.export.probe import Answer, check_answer
from kd_lightning.export.rebuild import ours, plain_options, rebuild
from kd_lightning.export.verify import BATCH, Comparison, Reference, random_images

__all__ = [
    "BATCH",
    "CALIBRATION_IMAGES",
    "ONNX_PACKAGES",
    "SUFFIXES",
    "Answer",
    "Comparison",
    "Description",
    "ImageClassifier",
    "Reference",
    "check_answer",
    "describe",
    "export_checked",
    "export_int8",
    "export_network",
    "need_packages",
    "open_exported",
    "ours",
    "plain_options",
    "random_images",
    "rebuild",
]
