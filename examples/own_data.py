"""Write a data module: it loads images; its base class handles order, views, splits and devices.

Run `python examples/own_data.py`: a few seconds, no download. A folder of image files needs no code, but
`ImageFolderDataModule`. In a config this one is `class_path: own_data.StripesDataModule`, with `PYTHONPATH=examples`.
"""

from typing import Any

import torch
from lightning import Trainer, seed_everything

from kd_lightning import CNN, ClassificationDataModule, DistillModule, ImageSet, Shift, TeacherModule

TEACHER = "lightning_logs/examples/own_data_teacher.ckpt"
QUIET = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}


class StripesDataModule(ClassificationDataModule):
    """Generate noisy images of vertical, horizontal or diagonal stripes, 16x16 grey pixels.

    Args:
        noise: standard deviation of the noise, in grey levels of 255.
        **kwargs: see `ClassificationDataModule`: `batch_size`, `val_size`, `views`, …
    """

    class_names = ("vertical", "horizontal", "diagonal")
    image_shape = (1, 16, 16)

    def __init__(self, noise: float = 60.0, **kwargs: Any) -> None:
        super().__init__(mean=[0.5], std=[0.3], **kwargs)
        self.noise = noise

    def load(self, train: bool) -> ImageSet:
        """Generate 600 training or 300 test images, uint8 (N, 1, 16, 16), and their labels, int64 (N,)."""
        count, random = (600, torch.Generator().manual_seed(0)) if train else (300, torch.Generator().manual_seed(1))
        label = torch.arange(count) % 3
        row, column = torch.arange(16).view(16, 1), torch.arange(16)
        along = torch.stack([column + 0 * row, row + 0 * column, row + column])[label]
        phase = torch.randint(4, (count, 1, 1), generator=random)
        stripes = 255.0 * ((along + phase) // 2 % 2) + self.noise * torch.randn(count, 16, 16, generator=random)
        return ImageSet(stripes.clamp(0, 255).to(torch.uint8).unsqueeze(1), label)


def main() -> None:
    """Train a teacher on all images, then a student on 30 of them."""
    seed_everything(0)
    large = {"channels": (16, 32), "image_size": 16, "num_classes": 3}
    small = {"channels": (2, 4), "hidden": (), "image_size": 16, "num_classes": 3}
    trainer = Trainer(max_epochs=10, **QUIET)
    trainer.fit(TeacherModule(CNN(**large)), StripesDataModule(views=Shift(2)))
    trainer.save_checkpoint(TEACHER)

    student = DistillModule(CNN(**small), teacher=CNN(**large), teacher_ckpt=TEACHER)
    few = StripesDataModule(train_size=30, batch_size=10, views=Shift(2))
    trainer = Trainer(max_epochs=60, **QUIET)
    trainer.fit(student, few)
    (figures,) = trainer.test(student, few, verbose=False)
    print(f"distilled on 30 images: test accuracy {figures['test/accuracy']:.1%}")


if __name__ == "__main__":  # not run when a config imports the data module
    main()
