"""Figures of one test are never taken for those of another, nor runs of some options for those of others."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from kd_lightning.__main__ import main
from kd_lightning.reports import results
from kd_lightning.reports.results import read_results
from tests.made import write_mnist

CONFIGS = Path(__file__).parents[2] / "configs"
REPRODUCE = ["reproduce", "digits", "--seeds", "2", "--pictures=false"]
REPRODUCE += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
DISTILL = Path("lightning_logs/digits/distill")
SEED_1 = DISTILL / "seed_1"
TEACHER = Path("lightning_logs/digits/teacher/seed_0")


@pytest.fixture(autouse=True)
def _program_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `reproduce digits` leaves: two seeds of each student, hardly trained."""
    folder = tmp_path_factory.mktemp("reproduced")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["kd-lightning"])
        assert main(REPRODUCE) == 0
    return folder


@pytest.fixture
def runs(reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the working folder."""
    shutil.copytree(reproduced, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, object]]:
    """The rows of `compare digits`, by name."""
    capsys.readouterr()
    assert main(["compare", "digits", "--format", "json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--trainer.limit_test_batches=2", "--data.eval_batch_size=60"], "its test measured 120 of 360 images"),
        ([f"--ckpt_path={DISTILL}/seed_0"], "its test measured "),
        (["--data.mean=[0.9]"], ""),
        (["--trainer.precision=bf16-true"], ""),
    ],
    ids=["a part", "other weights", "another normalisation", "another precision"],
)
def test_a_different_test_of_a_run_is_not_averaged_and_reproduce_tests_again(
    options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, weights = read_results(SEED_1), (SEED_1 / "checkpoints/last.ckpt").read_bytes()
    assert main(["test", "--config", f"{SEED_1}/config.yaml", *options, "--verbose=false"]) == 0
    names = {name for name in rows(capsys) if name.split("/")[0] == "distill"}
    assert names == ({"distill"} if reason else {"distill/seed_0", "distill/seed_1"})
    assert main(["compare", "digits"]) == 0
    told = capsys.readouterr().err
    assert (f"left out: {SEED_1.absolute().relative_to(Path.cwd())} ({reason}" in told) == bool(reason)
    # Another stage's table does not average it either.
    assert main([*REPRODUCE, "--stages", "teacher"]) == 0
    record = json.loads(Path("lightning_logs/digits/comparison.json").read_text())
    assert [row["seeds"] for row in record["rows"]] == [[0], [0, 1], [0, 1, 2], [0], [0, 1, 2]]
    assert any(f"left out: {SEED_1}" in line for line in record["warnings"])
    assert main([*REPRODUCE, "--stages", "distill"]) == 0
    out = capsys.readouterr().out
    assert "[3/3] digits: distill, seed 1: trained before, tested again" in out
    assert out.count("kept") == 3
    after = read_results(SEED_1)
    assert {**after, "latency": 0} == {**before, "latency": 0}
    assert (SEED_1 / "checkpoints/last.ckpt").read_bytes() == weights
    assert rows(capsys)["distill"]["seeds"] == [0, 1]


@pytest.mark.usefixtures("runs")
def test_a_test_replaces_all_parts_of_the_previous_one_and_reproduce_repeats_incomplete_tests(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = read_results(SEED_1)
    rules = {rule: {"errors": 1, "class_errors": 1} for rule in ("as_trained", "frequency", "test_optimal")}
    found["bias_correction"] = rules
    found["reproduced"]["parts"].insert(-1, "bias_correction")
    (SEED_1 / "results.json").write_text(json.dumps(found))
    (SEED_1 / "confusion.png").write_bytes(b"of an earlier test")
    assert main([*REPRODUCE, "--stages", "distill"]) == 0
    assert capsys.readouterr().out.count("kept") == 3
    assert main(["test", "--config", f"{SEED_1}/config.yaml", "--trainer.callbacks=null", "--verbose=false"]) == 0
    assert "bias_correction" not in read_results(SEED_1)
    assert not (SEED_1 / "confusion.png").exists()  # `--pictures false`, of the run's config
    assert main([*REPRODUCE, "--stages", "distill"]) == 0
    assert "seed 1: trained before, tested again" in capsys.readouterr().out


@pytest.mark.usefixtures("runs")
def test_an_extended_run_is_marked_and_has_a_separate_row(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", f"{SEED_1}/config.yaml", "--ckpt_path", str(SEED_1)]
    assert main(["fit", *words, "--trainer.max_epochs=3"]) == 0
    extended = read_results(SEED_1)
    assert extended["fit"]["epochs"] == extended["config"]["trainer"]["max_epochs"] == 3
    assert extended["fit"]["earlier"][0]["steps"] == 2
    assert yaml.safe_load((SEED_1 / "config.yaml").read_text())["trainer"]["max_epochs"] == 3
    assert not {"settings", "fingerprint", "reproduced", "test", "confusion", "measured_on"} & set(extended)
    assert main(["test", "--config", f"{SEED_1}/config.yaml", "--verbose=false"]) == 0
    assert read_results(SEED_1)["measured_on"]["checkpoint"] == "last"
    found = rows(capsys)
    assert found["distill/seed_1"]["seeds"] == [1]
    assert found["distill/seed_0"]["seeds"] == [0]
    assert main([*REPRODUCE, "--stages", "distill"]) == 0
    out = capsys.readouterr().out
    assert "seed 1\n" in out  # neither kept, nor gone on with, nor only tested
    assert rows(capsys)["distill"]["seeds"] == [0, 1]


@pytest.mark.usefixtures("runs")
def test_students_of_a_teacher_with_other_weights_are_retrained(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*REPRODUCE, "--stages", "teacher", "--force"]
    assert main(words) == 0  # the same weights again
    assert main(REPRODUCE) == 0
    captured = capsys.readouterr()
    assert captured.out.count("kept") == 11
    assert "other weights" not in captured.err
    assert main([*words, "--model.optimizer.lr=0.01"]) == 0
    told = "distill: its teacher had other weights than teacher of this table"
    assert told in capsys.readouterr().err
    assert told in Path("lightning_logs/digits/report.html").read_text()
    rows(capsys)
    assert main([*REPRODUCE, "--model.optimizer.lr=0.01"]) == 0
    assert "[7/11] digits: distill, seed 0\n" in capsys.readouterr().out


@pytest.mark.usefixtures("runs")
def test_runs_of_another_code_version_are_retrained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "CODE", results.CODE + 1)
    assert main([*REPRODUCE, "--stages", "teacher"]) == 0
    captured = capsys.readouterr()
    assert "kept" not in captured.out
    assert "warning: measured by versions of the code that give other figures: " in captured.err


def test_replaced_data_files_retrain_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = write_mnist(tmp_path / "data") / "MNIST" / "raw"
    short = [*REPRODUCE[4:], "--data.train_size=100"]
    words = ["reproduce", "mnist_transfer", "--stages", "baseline", "--seeds", "1", "--data.root=data", *short]
    assert main(words) == 0
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        assert main(words) == 0
        assert "kept" in capsys.readouterr().out
        content = bytearray((raw / name).read_bytes())
        content[-1] ^= 1
        (raw / name).write_bytes(content)
        assert main(words) == 0
        assert "kept" not in capsys.readouterr().out


def test_a_replaced_weights_file_retrains_the_student(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = torch.load(TEACHER / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    network = {name[4:]: value for name, value in network.items() if name.startswith("net.")}
    torch.save(network, "teacher.pt")
    stage = {"config": str(CONFIGS / "digits/distill.yaml"), "options": {"model.teacher_ckpt": "teacher.pt"}}
    Path("mine.yaml").write_text(yaml.safe_dump({"title": "Mine", "stages": {"student": stage}}))
    words = ["reproduce", "mine.yaml", "--seeds", "1", *REPRODUCE[4:]]
    assert main(words) == 0
    assert main(words) == 0
    assert "kept" in capsys.readouterr().out
    torch.save({name: value + 0.01 for name, value in network.items()}, "teacher.pt")
    assert main(words) == 0
    assert "kept" not in capsys.readouterr().out


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("config", [str(CONFIGS / "digits/teacher.yaml"), f"{TEACHER}/config.yaml"])
def test_fit_does_not_overwrite_a_run_of_reproduce(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in TEACHER.rglob("*") if file.is_file()}
    fit = ["fit", "--config", config, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    assert main(fit) == 2
    assert (
        f"kd-lightning: error: fit: {TEACHER} holds a run of `reproduce`, another folder expected "
        "(--trainer.logger.version NAME); --overwrite true replaces it\n"
    ) in capsys.readouterr().err
    assert {file: file.read_bytes() for file in TEACHER.rglob("*") if file.is_file()} == before
    assert main([*fit, "--trainer.logger.version=mine"]) == 0
    assert main([*fit, "--trainer.logger.version=mine"]) == 0  # its own place, as ever
    assert {file: file.read_bytes() for file in TEACHER.rglob("*") if file.is_file()} == before
    assert main([*fit, "--overwrite=true"]) == 0
    assert "fingerprint" not in read_results(TEACHER)
    assert "overwrite: false" in (TEACHER / "config.yaml").read_text()
