"""What surrounds a run may fail it: disks, standard output, files that nobody can read, a missing home folder."""

import logging
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tensorboard.summary.writer.record_writer import RecordWriter

from kd_lightning.__main__ import main
from kd_lightning.errors import UserError
from kd_lightning.models import pretrained
from kd_lightning.reports.results import read_results

DEPTH = 50_000
DEEP = {
    "list.json": "[" * DEPTH + "]" * DEPTH,
    "object.json": '{"a":' * DEPTH + "1" + "}" * DEPTH,
    "flow.yaml": "model: " + "[" * DEPTH + "]" * DEPTH,
    "block.yaml": "- " * DEPTH + "1",
}
LATIN_1 = "trainer: {max_epochs: 1}  # café".encode("latin-1")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    # Lightning's log handler keeps the captured stream of an earlier test, which is closed by now.
    monkeypatch.setattr(logging, "raiseExceptions", False)


@pytest.fixture
def config():
    net = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 10]}}
    logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "logs", "name": "a", "version": "b"},
    }
    options = {
        "seed_everything": 0,
        "threads": 1,
        "model": {"class_path": "kd_lightning.modules.TeacherModule", "init_args": {"net": net}},
        "data": {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": {"train_size": 64}},
        "trainer": {"max_epochs": 1, "enable_model_summary": False, "accelerator": "cpu", "logger": logger},
    }
    Path("given.yaml").write_text(yaml.safe_dump(options))
    return "--config=given.yaml"


def refused(capsys, *words):
    capsys.readouterr()
    assert main(list(words)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines), lines
    said = [line for line in lines if line.startswith("kd-lightning:")]
    assert len(said) == 1
    assert len(said[0]) < 2100
    return said[0]


@pytest.mark.parametrize("written_before", [0, 1, 4])
def test_a_full_disk_while_tensorboard_writes_is_one_line(written_before, config, monkeypatch, capsys):
    count = 0
    write = RecordWriter.write

    def until_full(self, data):
        nonlocal count
        count += 1
        if count > written_before:
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", until_full)
    line = refused(capsys, "fit", config)
    assert line.startswith("kd-lightning: error: logs/a/b, or standard output: cannot be written")
    assert "No space left on device" in line


def test_an_error_of_the_system_that_names_no_file_is_one_line(config, monkeypatch, capsys):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("kd_lightning.cli.lightning.configure_cpu", fail)
    assert refused(capsys, "fit", config) == "kd-lightning: error: [Errno 5] Input/output error"


@pytest.mark.parametrize(
    ("redirected", "status", "message"),
    [
        (">&-", 2, "kd-lightning: error: standard output is closed; a file, a pipe or /dev/null expected\n"),
        (">/dev/full", 2, "kd-lightning: error: standard output: No space left on device\n"),
        ("<&-", 0, ""),
        ("2>&-", 0, ""),
        (">&- 2>&-", 2, ""),
    ],
)
def test_standard_streams_that_are_closed_or_full(redirected, status, message):
    command = f"{sys.executable} -m kd_lightning --help {redirected}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, message)


@pytest.mark.parametrize("name", DEEP)
def test_a_config_that_is_nested_without_end_is_one_line(name, config, capsys):
    Path(name).write_text(DEEP[name])
    assert name in refused(capsys, "fit", config, f"--config={name}")
    assert "data" in refused(capsys, "fit", config, f"--data={name}")
    for command in ("reproduce", "compare"):
        assert name in refused(capsys, command, name)


def test_results_that_are_nested_without_end_are_none(config, capsys):
    run = Path("logs/a/b")
    run.mkdir(parents=True)
    for content in DEEP.values():
        (run / "results.json").write_text(content)
        assert read_results(run) == {}
    assert "logs found" in refused(capsys, "compare", "logs")
    assert main(["fit", config]) == 0
    assert "fit" in read_results(run)


def test_files_that_are_not_utf_8_are_named(config, capsys):
    Path("latin.yaml").write_bytes(LATIN_1)
    assert "latin.yaml found, which is not text in UTF-8" in refused(capsys, "fit", config, "--config=latin.yaml")
    assert "latin.yaml found" in refused(capsys, "fit", "--config", "latin.yaml")
    for command in ("reproduce", "compare"):
        assert "latin.yaml: not a recipe ('utf-8'" in refused(capsys, command, "latin.yaml")


def test_a_config_that_is_not_yaml_is_named(config, capsys):
    Path("broken.yaml").write_text("model: [")
    assert "given.yaml, broken.yaml: Problems parsing config" in refused(capsys, "fit", config, "--config=broken.yaml")


def test_a_user_without_a_home_folder(config, monkeypatch, tmp_path, capsys):
    def nobody(*_):
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(RuntimeError):
        Path.home()
    assert main(["fit", config]) == 0
    assert "save_dir: ~/runs found, but ~ has no home" in refused(
        capsys, "fit", config, "--trainer.logger.save_dir=~/runs"
    )
    with pytest.raises(UserError, match=r"weights: ~/\.cache/torch/hub found, but ~ has no home folder"):
        pretrained("resnet18")
    assert not (tmp_path / "~").exists()
