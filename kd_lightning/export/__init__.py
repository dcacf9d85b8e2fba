"""Rebuild a trained network from its checkpoint, and export it to files that run without this project."""

from kd_lightning.checkpoints.description import Description, describe
from kd_lightning.export.classifier import ImageClassifier
from kd_lightning.export.export import export_checked, export_int8, export_network
from kd_lightning.export.formats import ONNX_PACKAGES, SUFFIXES, need_onnx, open_exported
from kd_lightning.export.int8 import CALIBRATION_IMAGES
from kd_lightning.export.probe import Predictor, check_predictor
from kd_lightning.export.rebuild import ours, plain_options, rebuild
from kd_lightning.export.verify import BATCH_SIZE, Deviation, Reference, random_images

__all__ = [
    "BATCH_SIZE",
    "CALIBRATION_IMAGES",
    "ONNX_PACKAGES",
    "SUFFIXES",
    "Description",
    "Deviation",
    "ImageClassifier",
    "Predictor",
    "Reference",
    "check_predictor",
    "describe",
    "export_checked",
    "export_int8",
    "export_network",
    "need_onnx",
    "open_exported",
    "ours",
    "plain_options",
    "random_images",
    "rebuild",
]
