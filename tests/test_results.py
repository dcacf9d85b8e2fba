import json
import os
from pathlib import Path

import pytest

from kd_lightning.results import PACKAGES, machine, read_results, update_results, versions, write_text


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


@pytest.mark.parametrize("content", [None, "", '{"fit": {"sec'])
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
    with pytest.raises(OSError, match="No space left"):
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
