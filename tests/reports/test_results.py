import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import Precision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kd_lightning.__main__ import main
from kd_lightning.callbacks import BiasCorrection, ResultsWriter, setting
from kd_lightning.data import DigitsDataModule
from kd_lightning.errors import UserError
from kd_lightning.models import MLP
from kd_lightning.modules import TeacherModule
from kd_lightning.reports.results import PACKAGES, commit, machine, read_results, update_results, versions
from kd_lightning.reports.runs import MeasuredRun
from kd_lightning.utils.atomic_write import write_text

BASELINE = Path(__file__).parents[2] / "configs" / "digits" / "baseline.yaml"


def test_an_update_replaces_its_own_parts_whole_and_keeps_the_others(tmp_path: Path) -> None:
    update_results(tmp_path, fit={"seconds": 1.5, "epochs": 2}, test={"errors": 9, "agreement": 0.5})
    update_results(tmp_path, test={"errors": 7}, command=["test"])
    assert read_results(tmp_path) == {
        "fit": {"seconds": 1.5, "epochs": 2},
        "test": {"errors": 7},
        "command": ["test"],
    }


def test_results_are_readable_json_that_all_may_read(tmp_path: Path) -> None:
    update_results(tmp_path / "run", fit={"epochs": 2})  # the folder is made
    file = tmp_path / "run" / "results.json"
    assert json.loads(file.read_text()) == {"fit": {"epochs": 2}}
    assert file.read_text().endswith("}\n")
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_row_of_counts_takes_a_line_and_no_name_is_touched(tmp_path: Path) -> None:
    parts = {"confusion": [[9, 0], [1, 8]], "class_names": ["[\n 1,\n 2\n]", "b"], "words": [], "seconds": [1.5, 2.5]}
    update_results(tmp_path, **parts)
    assert "    [9, 0],\n    [1, 8]\n" in (tmp_path / "results.json").read_text()
    assert read_results(tmp_path) == parts


@pytest.mark.parametrize("content", [None, "", '{"fit": {"sec', "[1, 2]"])
def test_results_that_are_absent_or_damaged_are_empty_and_can_be_written_anew(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert read_results(tmp_path) == {}
    update_results(tmp_path, fit={"epochs": 1})
    assert read_results(tmp_path) == {"fit": {"epochs": 1}}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    update_results(tmp_path, fit={"epochs": 1})

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync", full), "replace": (Path, "replace", full)}[call])
    with pytest.raises(UserError, match=r"results\.json: cannot be written \(.*No space left"):
        update_results(tmp_path, test={"errors": 9})
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    assert read_results(tmp_path) == {"fit": {"epochs": 1}}


def test_what_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    update_results(tmp_path, fit={"epochs": 1})
    with pytest.raises(TypeError):
        update_results(tmp_path, test={"errors": object()})
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    assert read_results(tmp_path) == {"fit": {"epochs": 1}}


def test_a_text_replaces_the_one_before_it(tmp_path: Path) -> None:
    for text in ("a long first text\n", "é\n"):
        write_text(tmp_path / "folder" / "report.md", text)
    assert (tmp_path / "folder" / "report.md").read_text() == "é\n"


def test_versions_and_machine_name_what_the_figures_depend_on() -> None:
    found = versions()
    assert set(found) == set(PACKAGES) >= {"torch", "lightning"}
    assert all(version[0].isdigit() for version in found.values())
    computer = machine()
    assert set(computer) == {"system", "processor", "cores"}
    assert computer["cores"] == os.cpu_count()
    assert computer["system"]
    assert computer["processor"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_test_leaves_the_network_s_latency_in_the_run_s_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    autocast: list[bool] = []

    def measured(*args: object) -> float:
        autocast.append(torch.is_autocast_enabled("cpu"))
        return measure(*args)

    measure = setting.measure_latency
    monkeypatch.setattr(setting, "measure_latency", measured)
    words = ["--config", str(BASELINE), "--trainer.max_epochs=1", f"--trainer.precision={precision}"]
    assert main(["fit", *words]) == 0
    run = tmp_path / "lightning_logs" / "digits" / "baseline" / "seed_0"
    assert "latency" not in read_results(run)
    assert main(["test", *words]) == 0
    results = read_results(run)
    assert set(results["latency"]) == {"batch_1", "batch_128"}
    assert min(results["latency"].values()) > 0
    assert results["threads"] == 1
    assert results["config"]["trainer"]["max_epochs"] == 1
    assert results["config"]["data"]["class_path"] == "kd_lightning.data.DigitsDataModule"
    assert {part: len(digest) for part, digest in results["data"].items()} == {"train": 64, "test": 64}
    assert results["commit"] == ""  # in no repository
    assert results["class_names"] == list("0123456789")
    counts = torch.tensor(results["confusion"])
    assert counts.sum(dim=1).tolist() == [35, 36, 35, 37, 37, 37, 37, 36, 33, 37]  # of the test's labels
    assert int(counts.sum() - counts.trace()) == results["test"]["errors"] > 0
    right, images, named = counts.diag(), counts.sum(dim=1), counts.sum(dim=0)
    expected = {"recall": right / images, "precision": right / named.clamp(min=1), "f1": 2 * right / (images + named)}
    assert results["class_figures"] == {name: pytest.approx(its.tolist(), abs=1e-6) for name, its in expected.items()}
    assert results["class_images"] == images.tolist()
    means = {"macro_f1": expected["f1"].mean(), "balanced_accuracy": expected["recall"].mean()}
    assert {name: results["test"][name] for name in means} == pytest.approx(
        {name: mean.item() for name, mean in means.items()}, abs=1e-6
    )
    assert autocast == 2 * [precision == "bf16-mixed"]


def test_a_commit_is_marked_where_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert commit() == ""
    Path("file").touch()
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "file"], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *words], check=True)
    first = commit()
    assert len(first) == 40
    Path("file").write_text("changed")
    assert commit() == f"{first}+"


def latency_of(net: nn.Module, data: object, world_size: int = 1) -> dict[str, float]:
    trainer = SimpleNamespace(datamodule=data, world_size=world_size, precision_plugin=Precision())
    return setting.latency(
        trainer, SimpleNamespace(net=net, device=torch.device("cpu"), memory_format=torch.channels_last)
    )


def test_what_cannot_be_measured_is_left_out_of_the_latency() -> None:
    data = SimpleNamespace(image_shape=(3, 4, 4))
    single = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3, track_running_stats=False))
    assert set(latency_of(single, data)) == {"batch_128"}
    assert latency_of(nn.Flatten(), data, world_size=2) == {}  # nor do the others wait for the first
    assert latency_of(nn.Flatten(), None) == {}


def test_a_test_from_python_says_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("logs/a/run")

    def trainer(*callbacks: Callback) -> Trainer:
        logger = TensorBoardLogger("logs", "a", "run")
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        return Trainer(max_epochs=1, logger=logger, callbacks=[ResultsWriter(), *callbacks], **quiet)

    data, module = DigitsDataModule(omit_classes=[3]), TeacherModule(MLP([64, 10]))
    first = trainer(BiasCorrection())  # which writes after the figures
    first.fit(module, data)
    first.test(module, data, verbose=False)
    results = read_results(run)
    assert "bias_correction" in results
    assert results["measured_on"]["checkpoint"] == "last"
    assert results["measured_on"]["weights"] == results["fit"]["weights"]
    assert (results["measured_on"]["images"], results["measured_on"]["of"]) == (360, 360)
    trainer().test(TeacherModule(MLP([64, 10])), data, verbose=False)
    results = read_results(run)
    assert "bias_correction" not in results
    assert results["measured_on"]["checkpoint"] is None
    assert MeasuredRun(run, results).other_weights == "no checkpoint of its own"
    digests = set()
    for classes in (3, 4):
        images = TensorDataset(torch.rand(33, 1, 8, 8), torch.arange(33) % classes)
        trainer().test(module, DataLoader(images, batch_size=10), verbose=False)
        results = read_results(run)
        assert (results["measured_on"]["images"], results["measured_on"]["of"]) == (33, 33)
        digests.add(results["measured_on"]["data"])
    assert len(digests) == 2
