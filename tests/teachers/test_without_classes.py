"""A teacher that returns an embedding in place of logits."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from kd_lightning.data import DigitsDataModule
from kd_lightning.errors import UserError
from kd_lightning.losses import EmbeddingLoss
from kd_lightning.models import MLP
from kd_lightning.modules import DistillModule, FeatureMatch
from tests.modules.test_other_data import QUIET


class Embedding(nn.Module):
    """Images to vectors, tokens or a dictionary of them."""

    def __init__(self, kind: str = "vectors", width: int = 12, num_classes: int | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.body = nn.Linear(64, width)
        if num_classes is not None:
            self.num_classes = num_classes

    def forward(self, image: Tensor) -> Any:
        vector = self.body(image.flatten(1))
        return {"vectors": vector, "tokens": vector[:, None], "a dictionary": {"pooled": vector}}[self.kind]


def student(teacher: nn.Module, layer: str = "", width: int = 12, **options: Any) -> DistillModule:
    match = FeatureMatch("linear1", layer, EmbeddingLoss(8, width))
    weights = {"hard_weight": 1.0, "soft_weight": 0.0, "feature_weight": 1.0, **options}
    return DistillModule(MLP([64, 8, 10]), teacher, features=[match], **weights)


def fit(module: DistillModule) -> Trainer:
    trainer = Trainer(max_epochs=1, **QUIET)
    trainer.fit(module, DigitsDataModule(train_size=60, val_size=20))
    return trainer


@pytest.mark.parametrize(
    ("teacher", "layer"),
    [
        (Embedding(), ""),
        (Embedding("tokens"), ""),
        (Embedding("a dictionary"), "body"),
        (Embedding(width=10, num_classes=0), ""),
    ],
    ids=["vectors", "tokens", "a dictionary", "as wide as the data has classes"],
)
def test_its_student_learns_from_labels_and_features(teacher: Embedding, layer: str, recwarn: Any) -> None:
    module = student(teacher, layer, teacher.body.out_features)
    before = module.feature_losses[0].projector.weight.detach().clone()
    trainer = fit(module)
    figures = trainer.callback_metrics
    assert float(figures["train/loss"]) == pytest.approx(
        float(figures["train/hard_loss"] + figures["train/feature_loss"]), rel=1e-5
    )
    assert {"train/soft_loss", "val/agreement", "val/teacher_kl"}.isdisjoint(figures)
    assert not torch.equal(module.feature_losses[0].projector.weight, before)
    assert not any("chance" in str(warning.message) for warning in recwarn)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("vectors", r"teacher: Embedding has 12 classes, the data has 10; name its classes: teacher_classes;"),
        (
            "tokens",
            r"teacher: Embedding returns a tensor of shape \(2, 1, 12\) for 2 images, 2 rows of logits",
        ),
        ("a dictionary", "teacher: Embedding returns a dict, a tensor of logits expected"),
    ],
)
def test_a_soft_loss_needs_logits(kind: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}.*without classes, set soft_weight to 0 and match features$"):
        fit(student(Embedding(kind), "body", soft_weight=0.5))


def test_a_teacher_with_classes_is_measured_without_a_soft_loss_too() -> None:
    figures = fit(student(MLP([64, 12, 10]), "linear1")).callback_metrics
    assert {"train/soft_loss", "val/agreement"} < set(figures)


def test_a_width_that_does_not_fit_is_refused_before_training() -> None:
    with pytest.raises(UserError, match=r"teacher_layer  returns 2x12, which EmbeddingLoss does not take"):
        fit(student(Embedding(), width=13))
