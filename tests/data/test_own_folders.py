"""Folders of images by the user's door: what is streamed, unlabelled, or laid out like ImageNet."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_lightning.__main__ import main
from kd_lightning.reports.results import read_results
from tests.data.test_image_folder import message_of, set_up, write, write_tree
from tests.test_shown_code import block

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


def write_flat(folder: Path, count: int) -> Path:
    """Write images of the classes' colours without class folders, one of them in a subfolder."""
    for i in range(count):
        write(folder / ("deep/er" if i == 0 else "") / f"{i}.png", (10 * (i % 3), 100 + i, 0))
    return folder


def test_unlabelled_images_beside_labelled_ones_are_trained_on_by_the_soft_loss_alone() -> None:
    for blue, part in enumerate(("train", "test")):
        write_tree(Path("images", part), 4, blue=blue)
    write_flat(Path("images/more"), 6)
    root = ["--data.root=images", "--data.val_size=3"]
    assert run("fit", "teacher", *TEACHER, *root) == 0
    more = [*root, "--data.unlabelled=images/more", "--data.omit_classes=[2]", "--model.cache_teacher=true"]
    corrected = ["--pictures=false", "--trainer.callbacks=kd_lightning.callbacks.BiasCorrection"]
    assert run("fit", "student", *STUDENT, *more) == 0
    assert run("test", "student", *STUDENT, *more, "--ckpt_path=runs/student", *corrected) == 0
    results = read_results(Path("runs/student"))
    assert results["test"]["images"] == 12
    assert "frequency" in results["bias_correction"]  # of the labelled training images


def test_unlabelled_images_alone_train_a_student_and_no_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    for blue, part in enumerate(("train", "test")):
        write_tree(Path("images", part), 4, blue=blue)
    assert run("fit", "teacher", *TEACHER, "--data.root=images") == 0
    Path("images/test").rename("only_test")
    Path("found/test").parent.mkdir()
    Path("only_test").rename("found/test")
    alone = ["--data.root=found", f"--data.unlabelled={write_flat(Path('photographs'), 7)}"]
    assert run("fit", "student", *STUDENT, *alone, "--model.hard_weight=0.0") == 0
    assert run("test", "student", *STUDENT, *alone, "--ckpt_path=runs/student", "--pictures=false") == 0
    assert read_results(Path("runs/student"))["test"]["images"] == 12
    capsys.readouterr()
    assert run("fit", "none", *TEACHER, *alone) == 2
    assert "data: no labelled training image found, at least 1 expected" in capsys.readouterr().err


def test_unlabelled_images_count_as_training_images_and_are_never_held_out(tmp_path: Path) -> None:
    for blue, part in enumerate(("train", "test")):
        write_tree(tmp_path / "images" / part, 4, blue=blue)
    flat = write_flat(tmp_path / "more", 6)
    data = set_up(tmp_path / "images", "fit", unlabelled=str(flat), val_size=6, train_size=6)
    assert sorted(data.make_batch(data.val_positions).label.tolist()) == [0, 0, 1, 1, 2, 2]
    label = data.make_batch(data.train_positions).label.tolist()
    assert sorted(label) == [-1, -1, -1, 0, 1, 2]  # in proportion, as every prefix of the order
    whole = write_tree(tmp_path / "whole", 10)
    split = set_up(whole, "fit", unlabelled=[str(flat), str(write_flat(whole / "loose", 3))])
    assert list(split.class_names) == ["ant", "bee", "cow"]  # a folder of unlabelled images is no class
    assert split.make_batch(split.train_positions).label.eq(-1).sum() == 9
    assert split.make_batch(split.val_positions).label.min() == 0
    before = set_up(whole, "fit", leave_out_classes=["loose"])
    assert split._names_digest == before._names_digest  # a checkpoint may go on with other unlabelled images


def test_copies_of_test_images_among_unlabelled_ones_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for blue, part in enumerate(("train", "test")):
        write_tree(tmp_path / "images" / part, 2, blue=blue)
    write(tmp_path / "more" / "copy.png", (0, 0, 1))
    set_up(tmp_path / "images", "fit", unlabelled=str(tmp_path / "more"))
    assert "1 of the 6 test images are, pixel for pixel, among the training images too" in caplog.text


def test_in_imagenet_s_layout_a_test_measures_val_and_says_so(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for blue, part in enumerate(("train", "val")):
        write_tree(Path("images", part), 4, blue=blue)
    assert run("fit", "teacher", *TEACHER, "--data.root=images") == 0
    assert run("test", "teacher", *TEACHER, "--data.root=images", "--ckpt_path=runs/teacher", "--pictures=false") == 0
    line = "images: no test part found: a test measures the images of val/, by which best.ckpt is chosen"
    assert caplog.text.count(line) == 1
    assert "pixel for pixel" not in caplog.text
    measured = read_results(Path("runs/teacher"))["measured_on"]
    assert (measured["part"], measured["images"]) == ("val", 12)
    data = set_up(Path("images"), val_size=3)  # held out of train/, so that val/ is new to the network
    assert [len(data.train_positions), len(data.val_positions), data.test_count] == [9, 3, 12]
    assert caplog.text.splitlines()[-1].endswith("a test measures the images of val/")


def test_folders_are_put_together_as_shown(caplog: pytest.LogCaptureFixture) -> None:
    for blue, folder in enumerate(("flowers/train", "flowers/test", "more_flowers/train")):
        write_tree(Path(folder), 2, ("ant", "bee", "cow", "dog"), blue)
    write_flat(Path("photographs"), 3)
    Path("classes.txt").write_text("cow\nant\nbee honey bee\n")
    Path("folders.yaml").write_text(block("docs/own_data.md", "# folders.yaml"))
    network = ["--model=kd_lightning.modules.TeacherModule", f"--model.net={NET}", "--data.image_size=12"]
    logger = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.name=", "--trainer.logger.version=shown"]
    for command in ("fit", "test"):
        words = ["--ckpt_path=runs/shown", "--pictures=false"] if command == "test" else []
        assert main([command, "--config=folders.yaml", *network, *logger, *SHORT, *words]) == 0
    results = read_results(Path("runs/shown"))
    assert (results["class_names"], results["test"]["images"]) == (["cow", "ant", "honey bee"], 6)
    assert "1 class folders left out" in caplog.text


def test_several_roots_are_put_together_by_part_and_class(tmp_path: Path) -> None:
    write_tree(tmp_path / "a" / "train", 2)
    write_tree(tmp_path / "b" / "train", 3, ("bee", "cow", "dog"), blue=1)
    write_tree(tmp_path / "b" / "test", 1, ("bee", "dog"), blue=2)
    data = set_up([tmp_path / "a", tmp_path / "b"])
    assert list(data.class_names) == ["ant", "bee", "cow", "dog"]
    assert data.make_batch(data.train_positions).label.bincount().tolist() == [2, 5, 5, 3]
    assert sorted(data.test_names) == ["b/test/bee/00.png", "b/test/dog/00.png"]
    write_tree(tmp_path / "c", 2)
    found = message_of([tmp_path / "a", tmp_path / "c"])
    assert (
        found
        == f"root: {tmp_path / 'a'} is split into train/ and others, {tmp_path / 'c'} is not; all of one kind expected"
    )


def test_a_class_list_gives_numbers_and_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tree(tmp_path / "images" / "train", 2, ("n03", "n01", "n02"))
    write_tree(tmp_path / "images" / "test", 1, ("n03", "n01", "n02"), blue=1)
    (tmp_path / "classes.txt").write_text("n02 tench, Tinca tinca\n\nn03 cock\n")
    data = set_up(tmp_path / "images", classes=str(tmp_path / "classes.txt"))
    assert list(data.class_names) == ["tench, Tinca tinca", "cock"]
    batch = data.make_batch(data.train_positions)
    assert {
        (label, int(level)) for label, level in zip(batch.label.tolist(), batch.image[:, 0, 0, 0], strict=True)
    } == {
        (0, 20),
        (1, 0),
    }
    assert "1 class folders left out, which are not in `classes`" in caplog.text
    assert data.test_count == 2
    assert list(set_up(tmp_path / "images", classes=["n03", "n01"]).class_names) == ["n03", "n01"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"classes": "none.txt"}, "classes: none.txt cannot be read (["),
        ({"classes": ["ant", "bea"]}, "classes: no class folder bea; found are ant, bee, cow"),
        ({"classes": ["ant", "ant"]}, "classes: ant found more than once"),
        ({"classes": ["ant"]}, "classes: 1 found, at least 2 expected"),
        ({"classes": ["ant", "bee"], "leave_out_classes": ["cow"]}, "classes and leave_out_classes: both found"),
        ({"unlabelled": "nowhere"}, "unlabelled: nowhere cannot be listed"),
        ({"unlabelled": "empty"}, "unlabelled: no image found below empty"),
        ({"root": []}, "root: an empty list found"),
    ],
)
def test_options_of_folders_that_do_not_fit_are_one_line(
    options: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "test"):
        write_tree(Path("images", part), 2)
    Path("empty").mkdir()
    words = [
        f"--data.{name}={json.dumps(value) if isinstance(value, list) else value}" for name, value in options.items()
    ]
    assert run("fit", "teacher", *TEACHER, "--data.root=images", *words) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
