"""`sweep --space`: settings of any options, chosen on validation images by the figures of those before."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd_lightning.__main__ import main
from kd_lightning.modules import ClassifierModule
from kd_lightning.reports.results import read_results
from tests.test_shown_code import block

NET = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 8, 10]}}
CONFIG = {
    "model": {
        "class_path": "kd_lightning.modules.TeacherModule",
        "init_args": {"net": NET, "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}},
    },
    "data": {
        "class_path": "kd_lightning.data.DigitsDataModule",
        "init_args": {"train_size": 100, "batch_size": 50, "val_size": 200},
    },
    "trainer": {"max_epochs": 2},
    "pictures": False,
}
SPACE = {
    "model.optimizer.lr": {"low": 0.01, "high": 1.0, "log": True},
    "trainer.max_epochs": {"low": 1, "high": 3},
    "model.class_weights": [None, "balanced", [2.0, *[1.0] * 9]],
}
SHOWN = "# space.yaml: kd-lightning sweep digits/distill --space space.yaml --data.val_size 300"
FOLDER = Path("lightning_logs/sweep/mine_student_space")
WORDS = ["sweep", "mine/student.yaml", "--space", "space.yaml"]


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    Path("mine").mkdir()
    Path("mine/student.yaml").write_text(yaml.safe_dump(CONFIG))
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))


def settings() -> list[dict[str, str]]:
    return list(csv.DictReader((FOLDER / "sweep.csv").read_text().splitlines()))


def test_the_best_setting_is_found_without_the_test_images(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tested: list[Any] = []
    monkeypatch.setattr(ClassifierModule, "test_step", lambda self, batch, batch_idx: tested.append(batch))
    assert main([*WORDS, "--tries", "4"]) == 0
    out = capsys.readouterr().out
    assert not tested
    found = settings()
    assert [each["try"] for each in found] == ["1", "2", "3", "4"]
    for each in found:
        results = read_results(FOLDER / "tries" / f"try_{each['try']}")
        assert "test" not in results
        assert results["val"]["accuracy"] == pytest.approx(float(each["accuracy"]))
        options = results["config"]["model"]["init_args"]
        assert 0.01 <= options["optimizer"]["init_args"]["lr"] == float(each["model.optimizer.lr"]) <= 1
        assert results["fit"]["epochs"] == int(each["trainer.max_epochs"]) in (1, 2, 3)
        assert options["class_weights"] in SPACE["model.class_weights"]
    best = max(found, key=lambda each: (float(each["accuracy"]), -float(each["nll"])))
    assert json.loads((FOLDER / "tries.json").read_text())["chosen"] == int(best["try"])
    assert f"next: kd-lightning fit --config {FOLDER}/best.yaml" in out
    config = yaml.safe_load((FOLDER / "best.yaml").read_text())
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == float(best["model.optimizer.lr"])
    assert main(["fit", "--config", f"{FOLDER}/best.yaml"]) == 0
    assert "fit" in read_results(Path("lightning_logs/sweep/mine_student_space_best/seed_0"))


def test_a_search_that_is_called_again_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--tries", "2"]) == 0
    first = settings()
    capsys.readouterr()
    assert main([*WORDS, "--tries", "3"]) == 0
    out = capsys.readouterr().out
    assert out.count("finished before, kept") == 2
    assert settings()[:2] == first
    assert main([*WORDS, "--tries", "2", "--data.batch_size=25"]) == 0  # other options, so that nothing is kept
    assert "finished before" not in capsys.readouterr().out


def test_a_setting_that_diverges_or_comes_again_does_not_stop_the_search(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(yaml.safe_dump({"model.optimizer.lr": [1e30, 0.1]}))
    assert main([*WORDS, "--tries", "6"]) == 0
    out = capsys.readouterr().out
    assert out.count("    diverged: training: ") == 1
    assert out.count(" again\n") == 4
    assert [(each["model.optimizer.lr"], bool(each["accuracy"])) for each in sorted(settings(), key=str)] in (
        [("1e+30", False), ("0.1", True)],
        [("0.1", True), ("1e+30", False)],
    )
    Path("space.yaml").write_text(yaml.safe_dump({"model.optimizer.lr": [1e30]}))
    assert main([*WORDS, "--tries", "1"]) == 2
    assert "all have diverged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("space", "words", "message"),
    [
        ("[1, 2]", [], "space.yaml: options by dotted name expected"),
        (
            "model.temperature: 3",
            [],
            "model.temperature: 3 found, a list of values or a range {low, high, log, step} exp",
        ),
        ("trainer.max_epochs: []", [], "trainer.max_epochs: no values found, at least 1 expected"),
        ("a: {low: 1, high: 2, hihg: 3}", [], "a list of values or a range"),
        ("a: {low: 1e-4, high: 1}", [], "numbers expected (1.0e-4 in YAML, as 1e-4 is a text)"),
        ("a: {low: 0, high: 1, log: true}", [], "[0, 1] found, low <= high expected, above 0 with log"),
        ("a: {low: 2, high: 1}", [], "[2, 1] found, low <= high expected"),
        ("a: {low: 1, high: 2, log: true, step: 1}", [], "log: true or false expected, and no step with true"),
        ("a: : b", [], "space.yaml cannot be read"),
        ("model.optimizer.rate: [1]", [], "rate"),
        ("seed_everything: [1, 2]", [], "seed_everything found, but sweep sets it for each run"),
        ("trainer.max_epochs: [1]", ["--trainer.max_epochs=2"], "--trainer.max_epochs: found, but the tries of"),
        ("trainer.max_epochs: [1]", ["--data.val_size=0"], "no validation images found"),
        ("trainer.max_epochs: [1]", ["--trainer.logger=false"], "sweep: trainer.logger false found, a logger expected"),
        ("trainer.max_epochs: [1]", ["--temperatures", "2"], "sweep: --temperatures found with --space"),
        ("trainer.max_epochs: [1]", ["--seeds", "2"], "sweep: --seeds found with --space"),
        ("trainer.max_epochs: [1]", ["--at_once", "2"], "sweep: --at_once found with --space"),
        ("trainer.max_epochs: [1]", ["--seed_everything=2"], "--seed_everything=2 found, but sweep sets it"),
    ],
)
def test_a_mistake_is_one_line(space: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(space)
    assert main([*WORDS, *words]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd-lightning:")]
    assert message in line
    assert not list(Path().rglob("*.ckpt"))


def test_a_missing_package_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(WORDS) == 2
    assert 'optuna is not installed: pip install "kd_lightning[search]"' in capsys.readouterr().err
    grid = ["sweep", "mine/student.yaml", "--temperatures", "2", "--soft_weights", "1", "--tries", "3"]
    assert main(grid) == 2
    assert "sweep: --tries 3 found without --space" in capsys.readouterr().err
    assert main(["sweep", "mine/student.yaml"]) == 2
    assert "--temperatures and --soft_weights expected, or --space FILE" in capsys.readouterr().err


def test_a_search_runs_as_shown() -> None:
    text = block("docs/compare.md", SHOWN)
    Path("space.yaml").write_text(text)
    assert main(["fit", "--config", "digits/teacher", "--trainer.max_epochs=1"]) == 0
    words = SHOWN.partition(": kd-lightning ")[2].split()
    assert main([*words, "--data.train_size=100", "--tries=2"]) == 0
    found = yaml.safe_load(Path("lightning_logs/sweep/digits_distill_space/tries.json").read_text())
    assert len(found["tries"]) == 2
    assert set(found["setting"]) == set(yaml.safe_load(text))
