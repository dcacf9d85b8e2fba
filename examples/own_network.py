"""Distil into a network of your own: any `nn.Module` from images (B, C, H, W) to logits (B, classes).

Run `python examples/own_network.py`: a few seconds, no download.
"""

from functools import partial

import torch
from lightning import Trainer, seed_everything
from torch import Tensor, nn

from kd_lightning import MLP, DigitsDataModule, DistillModule, TeacherModule

TEACHER = "lightning_logs/examples/own_network_teacher.ckpt"
QUIET = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}


class TinyNet(nn.Module):
    """Apply eight filters, average pooling to 4x4 and one linear layer: 1,370 parameters."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.filters = nn.Conv2d(1, 8, kernel_size=3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.classifier = nn.Linear(8 * 4 * 4, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Compute logits (B, classes) of normalised images (B, 1, 8, 8)."""
        maps = self.filters(image).relu()
        return self.classifier(self.pool(maps).flatten(1))


# The teacher is trained on all 1,437 training images, the student on the first 300.
seed_everything(0)
trainer = Trainer(max_epochs=20, **QUIET)
trainer.fit(TeacherModule(MLP([64, 200, 10])), DigitsDataModule())
trainer.save_checkpoint(TEACHER)

optimizer = partial(torch.optim.Adam, lr=0.01)
student = DistillModule(TinyNet(), teacher=MLP([64, 200, 10]), teacher_ckpt=TEACHER, optimizer=optimizer)
few = DigitsDataModule(train_size=300, batch_size=32)
trainer = Trainer(max_epochs=30, **QUIET)
trainer.fit(student, few)
(figures,) = trainer.test(student, few, verbose=False)
print(f"TinyNet, distilled from an MLP: test accuracy {figures['test/accuracy']:.1%}")
