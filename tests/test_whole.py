import os
import time
from pathlib import Path

import pytest

from kd_lightning import whole
from kd_lightning.errors import UserError
from kd_lightning.whole import whole_file, write_text


def test_a_file_is_made_with_its_folder_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "new" / "results.json"
    for text in ("one", "zwölf"):
        write_text(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert [left.name for left in file.parent.iterdir()] == ["results.json"]
    assert file.stat().st_mode & 0o777 == 0o644


def test_what_goes_wrong_leaves_the_file_before_and_no_draft(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write_text(file, "whole")

    def half() -> None:
        with whole_file(file) as draft:
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert [left.name for left in tmp_path.iterdir()] == ["results.json"]
    assert file.read_text() == "whole"


def test_until_it_is_whole_readers_see_the_file_before(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write_text(file, "before")
    with whole_file(file) as draft:
        draft.write_text("after")
        assert file.read_text() == "before"
    assert file.read_text() == "after"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(UserError, match=r"logs/results\.json: cannot be written \("):
        write_text(tmp_path / "logs" / "results.json", "text")


def test_drafts_that_a_killed_process_left_are_removed_after_an_hour(tmp_path: Path) -> None:
    old, new, other = (
        tmp_path / name for name in (".results.json.a.json", ".results.json.b.json", ".other.json.a.json")
    )
    for draft in (old, new, other):
        draft.write_text("half")
    for draft in (old, other):
        os.utime(draft, (time.time() - whole.ABANDONED - 10,) * 2)
    write_text(tmp_path / "results.json", "whole")
    assert sorted(left.name for left in tmp_path.iterdir()) == [other.name, new.name, "results.json"]
