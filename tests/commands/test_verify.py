"""Recorded figures are checked against a bit per image, the command beside them, and the repository."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd_lightning.__main__ import main
from kd_lightning.reports.results import read_results
from kd_lightning.reports.right_images import pack, unpack

NET = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 8, 10]}}
CONFIG = {
    "model": {"class_path": "kd_lightning.modules.TeacherModule", "init_args": {"net": NET}},
    "data": {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": {"train_size": 100, "batch_size": 50}},
    "trainer": {"max_epochs": 1},
    "pictures": False,
}
RECIPE = {
    "title": "Mine",
    "seeds": 2,
    "try_options": {"data.val_size": 200},
    "stages": {
        "plain": {"config": CONFIG},
        "tuned": {"config": CONFIG, "seeds": 1, "tries": [{"model.label_smoothing": 0.1}, {"trainer.max_epochs": 2}]},
    },
}


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a recipe that was run, and the table of its figures."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    git(folder, "init", "--quiet")
    git(folder, "add", "mine.yaml")
    git(folder, "commit", "--quiet", "--message", "A recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["kd-lightning"])
        assert main(["reproduce", "mine.yaml", "--data.batch_size", "25"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _in_the_repository(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(measured)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def table() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("lightning_logs/mine/comparison.json").read_text())
    return content


def verified(content: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    Path("checked").mkdir(exist_ok=True)
    Path("checked/mine.json").write_text(json.dumps(content))
    capsys.readouterr()
    status = main(["compare", "--verify", "checked"])
    written = capsys.readouterr()
    return status, written.out + written.err


def test_what_reproduce_writes_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(table(), capsys) == (0, "checked/mine.json: 2 rows verified\n")


def test_a_bit_per_image_says_which_are_right() -> None:
    results = read_results(Path("lightning_logs/mine/plain/seed_1"))
    right = unpack(results["right_images"], 360)
    assert right.sum() == results["test"]["right"]
    of_class_0 = results["class_figures"]["recall"][0] * results["class_images"][0]
    from sklearn.datasets import load_digits

    labels = load_digits().target[-360:]
    assert right[labels == 0].sum() == pytest.approx(of_class_0, abs=1e-3)


def first(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda content: change(content["rows"][0])


def flip(row: dict[str, Any]) -> None:
    right = unpack(row["right_images"][0], 360)
    right[7] = not right[7]
    row["right_images"][0] = pack(right)


def drop_a_seed(row: dict[str, Any]) -> None:
    for part in row.values():
        if isinstance(part, list) and len(part) == 2:
            part.pop()
    row["scores"] = row["latency"] = {}


def of_made_by(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return first(lambda row: row["made_by"].update(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first(flip), "another number in right_images"),
        (first(drop_a_seed), "plain: seeds [0] found, [0, 1] expected, as the command has"),
        (first(lambda row: row.update(name="other")), "other: a stage that the recipe mine does not have"),
        (first(lambda row: row.update(made_by=None)), "plain: no record of options and commit"),
        (first(lambda row: row.update(right_images=[])), "plain: no bit per test image of the seeds [0, 1]"),
        (of_made_by(options="0" * 64), "plain: other options than those that its command gives now"),
        (of_made_by(commits=[""]), "plain: no commit, as it was run outside of a git repository"),
        (of_made_by(commits=["0" * 40]), f"plain: commit {'0' * 40} found, one of this repository's expected"),
        (of_made_by(commits=["0" * 40 + "+"]), "one without changed files expected"),
        (of_made_by(commits="word"), "not a comparison (made_by"),
        (
            lambda content: content["rows"][1]["made_by"].update(setting={"trainer.max_epochs": 9}),
            "tuned: setting {'trainer.max_epochs': 9} found, one of the stage's tries expected",
        ),
        (lambda content: content["rows"][1]["made_by"].update(setting=None), "tuned: no setting found"),
        (
            lambda content: content.update(command="kd-lightning reproduce other.yaml"),
            "plain: cannot be checked against its command (recipe: other.yaml found",
        ),
        (
            lambda content: content.update(command="kd-lightning reproduce mine.yaml --data none.yaml"),
            "plain: cannot be checked against its command (",
        ),
        (
            lambda content: content.update(command="kd-lightning reproduce mine.yaml"),
            "plain: other options than those that its command gives now",
        ),
    ],
)
def test_a_changed_record_is_not_verified(
    change: Callable[[dict[str, Any]], Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = table()
    change(content)
    status, written = verified(content, capsys)
    assert status == 2
    assert message in written
    assert "kd-lightning: error: " in written


def test_a_row_that_its_command_does_not_make_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    content = table()
    of_made_by(options="0" * 64)(content)
    Path("checked").mkdir(exist_ok=True)
    Path("checked/mine.json").write_text(json.dumps(content))
    assert main(["compare", "checked/mine.json", "--format", "csv"]) == 0
    written = capsys.readouterr()
    assert [line.split(",")[0] for line in written.out.splitlines()] == ["stage", "tuned"]
    assert "left out: plain of checked/mine.json (other options than those that its command gives now)" in written.err


def test_a_table_without_its_recipe_is_shown_with_a_word(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(table())
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text(text)
    assert main(["compare", "mine.json", "--format", "csv"]) == 0
    assert "mine.json: not checked against its command (recipe: mine.yaml found" in capsys.readouterr().err
    assert main(["compare", "--verify", "none.json"]) == 2
    assert "none.json found, a comparison.json or a folder of such files expected" in capsys.readouterr().err
