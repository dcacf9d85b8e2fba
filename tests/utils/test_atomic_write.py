import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kd_lightning.errors import UserError
from kd_lightning.utils import atomic_write as whole
from kd_lightning.utils.atomic_write import atomic_write, write_text


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
        with atomic_write(file) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert [left.name for left in tmp_path.iterdir()] == ["results.json"]
    assert file.read_text() == "whole"


def test_until_it_is_whole_readers_see_the_file_before(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write_text(file, "before")
    with atomic_write(file) as temporary:
        temporary.write_text("after")
        assert file.read_text() == "before"
    assert file.read_text() == "after"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(UserError, match=r"logs/results\.json: cannot be written \("):
        write_text(tmp_path / "logs" / "results.json", "text")


def aged(file: Path, seconds: float = whole.ABANDONED_AFTER + 10) -> Path:
    """A file that was not changed for so long."""
    file.write_text("half")
    os.utime(file, (time.time() - seconds,) * 2)
    return file


def killed_draft(file: Path) -> Path:
    """What a process leaves that is killed while it writes a file."""
    with atomic_write(file) as temporary:
        shutil.copy(temporary, kept := temporary.with_name(f"{temporary.name[:-8]}x{file.suffix}"))
    file.unlink()
    return kept


def test_drafts_that_a_killed_process_left_are_removed_after_an_hour(tmp_path: Path) -> None:
    old, other = aged(killed_draft(tmp_path / "results.json")), aged(killed_draft(tmp_path / "other.json"))
    new = old.with_name(f"{old.name}.new")
    new.write_text("half")
    write_text(tmp_path / "results.json", "whole")
    assert sorted(left.name for left in tmp_path.iterdir()) == sorted([other.name, new.name, "results.json"])


@pytest.mark.parametrize("name", ["results.json", "holiday.csv", "last.ckpt", "model.onnx"])
def test_no_file_of_the_user_s_is_taken_for_an_abandoned_one(name: str, tmp_path: Path) -> None:
    stem, suffix = name.split(".")
    names = [
        f".{name}.swp",
        f".{name}.orig",
        f".{name}.x7k2_ab9.{suffix}",
        f".{name}.",
        f".{name}.bak",
        f".{stem}.{suffix}~",
    ]
    theirs = [aged(tmp_path / mine, seconds=10 * whole.ABANDONED_AFTER) for mine in names]
    write_text(tmp_path / name, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([*theirs, tmp_path / name])


def test_a_draft_that_is_being_written_stays_however_old_its_clock_says_it_is(tmp_path: Path) -> None:
    """Another machine's clock may be hours behind."""
    file = tmp_path / "results.json"
    with atomic_write(file) as slow:
        aged(slow)
        write_text(file, "quick")
        assert slow.read_text() == "half"
    assert file.read_text() == "half"
    assert [left.name for left in tmp_path.iterdir()] == ["results.json"]


def test_the_lock_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    lines = "import os, sys; from pathlib import Path; from kd_lightning.utils.atomic_write import atomic_write"
    lines += "\nwith atomic_write(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", lines, str(file)], check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    aged(left)
    write_text(file, "whole")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "name", ["x" * 251 + ".csv", "a." + "b" * 253, "\N{SNOWMAN}" * 83 + ".json", "[a]*?.csv", "." + "c" * 254]
)
def test_a_name_of_any_length_can_be_written(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / name, "text")
    assert [left.name for left in tmp_path.iterdir()] == [name]


def test_a_file_system_without_locks_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    left = aged(killed_draft(tmp_path / "results.json"))
    monkeypatch.setattr(fcntl, "flock", no_locks)
    write_text(tmp_path / "results.json", "whole")
    assert sorted(tmp_path.iterdir()) == sorted([left, tmp_path / "results.json"])
