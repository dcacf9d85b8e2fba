"""Run the benchmarks by their command on few images, and check what they print and record."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.measure import OURS, Benchmark, measure_in_turn, median_ratio

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where the configs are


def test_contenders_run_in_turn_and_every_figure_is_reported() -> None:
    order, reported = [], []

    def run(name: str, figures: list[float]) -> float:
        order.append(name)
        return figures.pop(0)

    a, b = [1.0, 3.0, 2.0], [2.0, 2.0, 8.0]
    contenders = {"a": lambda: run("a", a), "b": lambda: run("b", b)}
    figures = measure_in_turn(contenders, 3, lambda *figure: reported.append(figure))
    assert order == ["a", "b"] * 3
    assert figures == {"a": [1.0, 3.0, 2.0], "b": [2.0, 2.0, 8.0]}
    assert reported[:2] == [("a", 1.0), ("b", 2.0)]
    assert median_ratio(figures["a"], figures["b"]) == 0.5  # of 0.5, 1.5 and 0.25


def git(*words: str) -> str:
    names = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", *names, *words], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A git repository with one file, as the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("benchmarks").mkdir()
    Path("code.py").write_text("1")
    git("init", "--quiet")
    git("add", "code.py")
    git("commit", "--quiet", "--message=code")
    return tmp_path


def test_figures_are_printed_beside_their_aims_and_appended_to_the_records(
    monkeypatch: pytest.MonkeyPatch, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(folder: Path, images: int | None) -> Benchmark:
        assert images == 7
        return Benchmark("a title", "s", {OURS: lambda: 1.0, "other": lambda: 4.0}, {"other": 0.4}, 2.0)

    monkeypatch.setattr(command, "BENCHMARKS", {"made": made})
    for _ in range(2):
        command.main(["made", "--rounds=3", "--images=7", "--keep"])
        git("add", "benchmarks")  # a changed file of records does not count
    output = capsys.readouterr().out
    assert "other: 4 s" in output
    assert all(word in output for word in ("a title", "0.250", "0.4 or less", "2 s or less"))
    records = [json.loads(line) for line in (repository / "benchmarks" / "records.jsonl").read_text().splitlines()]
    assert len(records) == 2
    assert records[0]["figures"] == {"ours": [1.0] * 3, "other": [4.0] * 3}
    assert records[0]["ours / it"] == {"other": 0.25}
    assert {"date", "machine", "versions", "threads", "unit"} <= records[0].keys()
    assert {record["commit"] for record in records} == {git("rev-parse", "--short", "HEAD")}


def test_uncommitted_code_is_not_recorded(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("code.py").write_text("2")
    with pytest.raises(SystemExit) as caught:
        command.main(["data_path", "--keep"])
    assert caught.value.code == 2
    assert "uncommitted changes found in code.py" in capsys.readouterr().err


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["nothing"])
    assert caught.value.code == 2
    assert "nothing found, some of mnist_transfer, " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", command.BENCHMARKS)
def test_every_benchmark_runs_by_its_command(name: str) -> None:
    words = [sys.executable, "-m", "benchmarks", name, "--rounds=1", "--images=300"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "COLUMNS": "160"})
    assert "ours: " in done.stdout


def test_the_shortest_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["data_path", "--rounds=1", "--images=64"])
    assert "a jittered batch of 128" in capsys.readouterr().out


def test_records_name_known_benchmarks_and_their_commit() -> None:
    for line in command.RECORDS.read_text().splitlines() if command.RECORDS.exists() else []:
        record = json.loads(line)
        assert record["name"] in command.BENCHMARKS
        assert re.fullmatch("[0-9a-f]{7,}", record["commit"])
