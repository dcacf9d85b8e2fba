"""Where a disk is full, one line says so, and the last good file stays whole."""

import os
import resource
import signal
from pathlib import Path

import pytest
import yaml

from kd_lightning.__main__ import main

RUN = Path("lightning_logs/digits/teacher/seed_0")
FIT = ["fit", "--config=teacher.yaml", "--overwrite=true"]  # of a run of `reproduce`
TEST = ["test", "--config=teacher.yaml"]
REPRODUCE = ["reproduce", "digits.yaml"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that went well, of a recipe of one stage."""
    monkeypatch.chdir(tmp_path)
    net = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 64, 10]}}
    data = {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": {"train_size": 200, "val_size": 50}}
    logger = {"save_dir": "lightning_logs", "name": "digits/teacher", "version": "seed_0"}
    config = {
        "seed_everything": 0,
        "model": {"class_path": "kd_lightning.modules.TeacherModule", "init_args": {"net": net}},
        "data": data,
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_model_summary": False},
    }
    stages = {"teacher": {"seeds": 1, "config": config}}
    Path("digits.yaml").write_text(yaml.safe_dump({"title": "Digits", "seeds": 1, "stages": stages}))
    config["trainer"]["logger"] = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": logger,
    }
    Path("teacher.yaml").write_text(yaml.safe_dump(config))
    assert main(REPRODUCE) == 0
    assert main(["predict", "--config=teacher.yaml"]) == 0


def fill(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the disk be full when a file of this name is to be written."""
    fsync = os.fsync

    def full(handle: int) -> None:
        if f"/.{name}." in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (FIT, RUN / "checkpoints/last.ckpt"),
        (FIT, RUN / "results.json"),
        (TEST, RUN / "results.json"),
        (TEST, RUN / "confusion.png"),
        (TEST, RUN / "errors.png"),
        (["predict", "--config=teacher.yaml"], RUN / "predictions.csv"),
        (REPRODUCE, RUN.parents[1] / "comparison.json"),
        (REPRODUCE, RUN.parents[1] / "report.html"),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else value[0],
)
def test_a_full_disk_is_one_line_and_the_file_before_stays(
    words: list[str], file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file.read_bytes() if file.name != "results.json" or words != FIT else b""  # a new fit clears it
    fill(monkeypatch, file.name)
    capsys.readouterr()
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd-lightning:")]
    assert len(lines) == 1
    assert f"{file.name}: cannot be written ([Errno 28] No space left on device)" in lines[0]
    assert (file.read_bytes() if file.is_file() else b"") == before
    assert not list(file.parent.glob(f".{file.name}.*"))


def test_a_checkpoint_that_fails_half_way_leaves_the_one_before(capsys: pytest.CaptureFixture[str]) -> None:
    file = RUN / "checkpoints/last.ckpt"
    before = file.read_bytes()
    size, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, size[1]))
    try:
        assert main(FIT) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, size)
        signal.signal(signal.SIGXFSZ, handler)
    assert "ckpt: cannot be written (" in capsys.readouterr().err.splitlines()[-1]
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["last.ckpt"]
