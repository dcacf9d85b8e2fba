"""Knowledge distillation with PyTorch Lightning: a large teacher, and a small student that learns from it."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

HOMES = {
    "batch": ("Batch",),
    "callbacks": (
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
    ),
    "data": (
        "CIFAR10DataModule",
        "ClassificationDataModule",
        "CropFlip",
        "DigitsDataModule",
        "DogsVsCatsDataModule",
        "Identity",
        "ImageFolderDataModule",
        "ImageSet",
        "MNISTDataModule",
        "Shift",
        "StreamedSet",
        "ViewFamily",
    ),
    "errors": ("UserError",),
    "losses": ("CosineHiddenLoss", "FeatureMapLoss", "soft_target_loss", "soft_target_losses"),
    "models": (
        "CNN",
        "MLP",
        "VGG",
        "DeepNN",
        "Dropout",
        "LightNN",
        "Logits",
        "SmallCNN",
        "densenet121",
        "pretrained",
    ),
    "modules": ("ClassifierModule", "DistillModule", "FeatureMatch", "PopulationModule", "TeacherModule"),
    "schedules": ("CosineDecay",),
    "teachers": ("EnsembleTeacher",),
}
"""The names that `from kd_lightning import …` takes, and where each lives: what a notebook or script is made of.

They are looked up when they are asked for, so that the package itself costs no import of torch. `__init__.pyi` says
the same to type checkers.
"""

__all__ = sorted(name for names in HOMES.values() for name in names)


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"kd_lightning.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
