"""Write a loss on the logits, which is a function, and a loss on inner layers, which is a module.

Run `python examples/own_loss.py`: a few seconds, no download. A config or the command line names the function by its
import path:

    PYTHONPATH=examples kd-lightning fit --config digits/distill --model.soft_loss own_loss.logit_distance
"""

from functools import partial

import torch
import torch.nn.functional as F
from lightning import Trainer, seed_everything
from torch import Tensor, nn

from kd_lightning import CNN, DigitsDataModule, DistillModule, FeatureMatch, TeacherModule

TEACHER = "lightning_logs/examples/own_loss_teacher.ckpt"
QUIET = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}


def logit_distance(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Compute half the squared distance of the centred logits (B, classes), averaged over the batch.

    Divided by the number of classes it is the limit of T² · KL at high temperature: Hinton et al. 2015, section 2.1.
    """
    difference = student_logits - teacher_logits
    difference = difference - difference.mean(dim=1, keepdim=True)
    return difference.square().sum(dim=1).mean() / 2


class AttentionLoss(nn.Module):
    """Compute the squared distance of two attention maps of equal height and width.

    Source: Zagoruyko and Komodakis 2017, section 3.1 (arXiv 1612.03928).
    """

    def forward(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """Compare feature maps (B, C, H, W); the numbers of channels may differ."""
        student, teacher = (self.attention(maps) for maps in (student_features, teacher_features))
        return (student - teacher).square().sum(dim=1).mean()

    @staticmethod
    def attention(maps: Tensor) -> Tensor:
        """Sum squared activations over channels: (B, C, H, W) to unit vectors (B, H·W)."""
        return F.normalize(maps.square().sum(dim=1).flatten(1))


def main() -> None:
    """Train a teacher, then a student with each of the two losses."""
    seed_everything(0)
    large = {"channels": (32, 64), "hidden": (64,), "image_size": 8}
    small = {"channels": (4, 8), "hidden": (), "image_size": 8}
    trainer = Trainer(max_epochs=10, **QUIET)
    trainer.fit(TeacherModule(CNN(**large)), DigitsDataModule())
    trainer.save_checkpoint(TEACHER)

    for name, options in {
        "logits matched": {"soft_loss": logit_distance, "soft_weight": 0.1, "hard_weight": 1.0},
        "attention matched": {
            "features": [FeatureMatch(student_layer="conv1", teacher_layer="conv1", loss=AttentionLoss())],
            "feature_weight": 1.0,
        },
    }.items():
        options["optimizer"] = partial(torch.optim.Adam, lr=0.01)
        student = DistillModule(CNN(**small), teacher=CNN(**large), teacher_ckpt=TEACHER, **options)
        few = DigitsDataModule(train_size=300, batch_size=32)
        trainer = Trainer(max_epochs=20, **QUIET)
        trainer.fit(student, few)
        (figures,) = trainer.test(student, few, verbose=False)
        print(f"{name}: test accuracy {figures['test/accuracy']:.1%}")


if __name__ == "__main__":  # not run when a config imports the loss
    main()
