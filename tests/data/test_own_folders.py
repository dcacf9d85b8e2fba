"""Folders of images by the user's door: what is streamed, unlabelled, or laid out like ImageNet."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_lightning.__main__ import main
from tests.data.test_image_folder import write_tree

SHORT = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.logger.save_dir=runs", "--seed_everything=0"]
NET = "{class_path: kd_lightning.models.MLP, init_args: {widths: [432, 8, 3]}}"
TEACHER = ["--model=kd_lightning.modules.TeacherModule", f"--model.net={NET}"]
STUDENT = ["--model=kd_lightning.modules.DistillModule", f"--model.net={NET}", f"--model.teacher={NET}"]
STUDENT += ["--model.teacher_ckpt=runs/teacher"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def run(command: str, name: str, *words: str, data: str = "ImageFolderDataModule") -> int:
    """Run a command with images of 12 x 12 pixels; its run folder is `runs/<name>`."""
    of_data = [f"--data=kd_lightning.data.{data}", "--data.image_size=12", "--data.batch_size=6"]
    logger = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.name=", f"--trainer.logger.version={name}"]
    return main([command, *of_data, *words, *logger, *SHORT])


def weights(name: str) -> dict[str, Any]:
    return torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_the_logits_of_streamed_images_are_cached_exactly() -> None:
    for blue, part in enumerate(("train", "test")):
        write_tree(Path("images", part), 4, blue=blue)
    root = ["--data.root=images", "--data.views=kd_lightning.data.CropFlip", "--data.views.padding=1"]
    assert run("fit", "teacher", *TEACHER, *root) == 0
    for name, cache in (("live", "false"), ("cached", "all")):
        assert run("fit", name, *STUDENT, *root, "--data.cache_limit=0", f"--model.cache_teacher={cache}") == 0
    assert list(Path("runs/teacher/checkpoints").glob("last.ckpt.logits-*"))
    for name, weight in weights("live").items():
        torch.testing.assert_close(weights("cached")[name], weight, rtol=0, atol=1e-6)
