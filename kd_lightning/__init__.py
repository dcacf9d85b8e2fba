"""Knowledge distillation with PyTorch Lightning: a small student learns from a large teacher."""

# ruff: noqa: F403  # each module's `__all__` is what it offers

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
        "CutMix",
        "DigitsDataModule",
        "DogsVsCatsDataModule",
        "HuggingFaceDataModule",
        "Identity",
        "ImageFolderDataModule",
        "ImageSet",
        "MNISTDataModule",
        "Mix",
        "MixUp",
        "RandomViews",
        "Shift",
        "StreamedSet",
        "TorchvisionDataModule",
        "ViewFamily",
    ),
    "errors": ("UserError",),
    "losses": (
        "AttentionTransferLoss",
        "CRDLoss",
        "CosineHiddenLoss",
        "DISTLoss",
        "DKDLoss",
        "EmbeddingLoss",
        "FeatureMapLoss",
        "NKDLoss",
        "PKTLoss",
        "RKDAngleLoss",
        "RKDDistanceLoss",
        "ReviewKDLoss",
        "SimilarityPreservingLoss",
        "balanced_weights",
        "jensen_shannon_loss",
        "label_loss",
        "logit_mse_loss",
        "reverse_kl_loss",
        "soft_target_loss",
        "soft_target_losses",
        "standardised",
        "ttm_loss",
        "wttm_loss",
    ),
    "models": (
        "CNN",
        "MLP",
        "VGG",
        "CifarResNet",
        "DeepNN",
        "Dropout",
        "LightNN",
        "Logits",
        "SmallCNN",
        "WideResNet",
        "densenet121",
        "pretrained",
    ),
    "modules": (
        "ClassifierModule",
        "DistillModule",
        "FeatureMatch",
        "PopulationModule",
        "TeacherModule",
        "WeightedLoss",
    ),
    "schedules": (
        "CosineDecay",
        "CosineSchedule",
        "LinearSchedule",
        "RunSchedule",
        "StepDecay",
        "ValueSchedule",
        "WarmUp",
    ),
    "teachers": ("EnsembleTeacher", "OwnInput"),
}
"""Public names by the module that defines them: `from kd_lightning import MLP` works for each."""

if TYPE_CHECKING:
    from kd_lightning.batch import Batch as Batch
    from kd_lightning.callbacks import *
    from kd_lightning.data import *
    from kd_lightning.errors import UserError as UserError
    from kd_lightning.losses import *
    from kd_lightning.models import *
    from kd_lightning.modules import *
    from kd_lightning.schedules import *
    from kd_lightning.teachers import EnsembleTeacher as EnsembleTeacher
    from kd_lightning.teachers import OwnInput as OwnInput
else:
    __all__ = sorted(name for names in HOMES.values() for name in names)

    def __getattr__(name: str) -> Any:
        """Import a name on first use, so that `import kd_lightning` does not import torch."""
        for home, names in HOMES.items():
            if name in names:
                return getattr(import_module(f"kd_lightning.{home}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
