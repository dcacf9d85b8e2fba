import resource
import signal
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kd_lightning.errors import UserError
from kd_lightning.models import MLP, VGG
from kd_lightning.teachers import LogitCache, uses_batch_statistics
from kd_lightning.teachers.cache_file import CACHE_FILE, cache_file

FILE = "last.ckpt.logits-0123456789abcdef-fedcba9876543210.safetensors"


class Asked:
    """A teacher of three images under two views: its logits of (i, v) are 10 i + v and -i."""

    def __init__(self, index: list[int], view: list[int]) -> None:
        self.index, self.view = torch.tensor(index), torch.tensor(view)
        self.pairs: list[tuple[int, int]] = []

    def __call__(self, rows: Tensor) -> Tensor:
        index, view = self.index[rows], self.view[rows]
        self.pairs += zip(index.tolist(), view.tolist(), strict=True)
        return torch.stack([10.0 * index + view, -1.0 * index], dim=1)


def ask(cache: LogitCache, index: list[int], view: list[int]) -> tuple[list[list[float]], list[tuple[int, int]]]:
    """What the cache says of a batch, and for which pairs it asked the teacher."""
    asked = Asked(index, view)
    return cache.look_up(asked.index, asked.view, asked).tolist(), asked.pairs


def empty(images: int = 3, views: int = 2, classes: int = 2, file: Path | None = None) -> LogitCache:
    return LogitCache(torch.arange(images), images, views, classes, file=file)


def filled(file: Path | None = None) -> LogitCache:
    """Of three images and two views: (0, 0) and (2, 1) are known."""
    cache = empty(file=file)
    ask(cache, [0, 2], [0, 1])
    return cache


def files_in(folder: Path) -> set[str]:
    """Their names, without the lock's."""
    return {path.name for path in folder.iterdir() if path.name != f".lock-{FILE}"}


def test_a_pair_is_asked_for_once() -> None:
    cache = empty()
    assert ask(cache, [2, 0], [1, 0]) == ([[21.0, -2.0], [0.0, 0.0]], [(2, 1), (0, 0)])
    assert ask(cache, [0, 2, 1], [0, 1, 1]) == ([[0.0, 0.0], [21.0, -2.0], [11.0, -1.0]], [(1, 1)])
    assert ask(cache, [1, 2], [1, 0])[1] == [(2, 0)]  # the same image under another view is another pair


def test_what_is_not_known_is_listed_of_the_images_that_are_trained_on() -> None:
    cache = LogitCache(torch.tensor([2, 0]), 3, 2, 2)
    ask(cache, [0], [1])
    index, view = cache.missing()
    assert list(zip(index.tolist(), view.tolist(), strict=True)) == [(2, 0), (2, 1), (0, 0)]
    ask(cache, index.tolist(), view.tolist())
    assert [len(part) for part in cache.missing()] == [0, 0]


def test_each_epoch_s_first_known_answers_are_compared_and_no_others() -> None:
    cache = filled()
    cache.end_epoch()
    assert ask(cache, [1, 1], [0, 1])[1] == [(1, 0), (1, 1)]  # nothing known yet
    assert ask(cache, [0, 2, 2], [0, 0, 1])[1] == [(0, 0), (2, 1), (2, 0)]
    assert ask(cache, [0, 2, 2], [0, 0, 1])[1] == []
    ask(cache, [0], [1])  # the table is full
    cache.end_epoch()
    assert ask(cache, [0, 1], [0, 0])[1] == [(0, 0), (1, 0)]
    assert ask(cache, [0, 1], [0, 0])[1] == []


def test_of_a_large_batch_a_few_known_answers_are_compared() -> None:
    cache = empty(images=20, views=1)
    ask(cache, list(range(1, 20)), [0] * 19)
    cache.end_epoch()
    assert ask(cache, list(range(20)), [0] * 20)[1] == [*((i, 0) for i in range(1, 9)), (0, 0)]


@pytest.mark.parametrize(("factor", "refused"), [(1.01, False), (0.5, True), (float("nan"), True)])
def test_a_teacher_that_answers_otherwise_is_refused_but_for_rounding(factor: float, refused: bool) -> None:
    cache = filled()
    cache.end_epoch()
    asked = Asked([0, 2], [0, 1])
    if refused:
        with pytest.raises(UserError, match="for the same image and view in this run: set cache_teacher to false"):
            cache.look_up(asked.index, asked.view, lambda rows: factor * asked(rows))
    else:
        assert cache.look_up(asked.index, asked.view, lambda rows: factor * asked(rows))[1].tolist() == [21.0, -2.0]


def test_what_is_rounding_is_told_by_all_answers_not_by_those_compared() -> None:
    cache = filled()
    ask(cache, [1], [0])
    cache.end_epoch()
    asked = Asked([1], [0])  # one answer alone has no spread
    assert cache.look_up(asked.index, asked.view, lambda rows: asked(rows) + 0.1).tolist() == [[10.0, -1.0]]


def test_kept_answers_that_no_longer_hold_are_refused_with_the_file(tmp_path: Path) -> None:
    filled(tmp_path / FILE).save()
    cache = empty(file=tmp_path / FILE)
    cache.load()
    asked = Asked([0, 2], [0, 1])
    with pytest.raises(UserError, match=f"{FILE}: remove the file, or set cache_teacher to false"):
        cache.look_up(asked.index, asked.view, lambda rows: 0.5 * asked(rows))


def test_images_that_are_not_trained_on_are_not_waited_for() -> None:
    cache = LogitCache(torch.tensor([0, 2]), 3, 1, 2)
    ask(cache, [0, 2], [0, 0])
    cache.end_epoch()
    ask(cache, [0, 2], [0, 0])
    assert cache._is_complete


def test_a_table_takes_four_bytes_a_logit() -> None:
    assert LogitCache.nbytes(60_000, 25, 10) == 60_000_000
    assert empty(3, 2, 5).table.nbytes == LogitCache.nbytes(3, 2, 5) == 120


def test_a_file_holds_what_is_known_for_the_next_run(tmp_path: Path) -> None:
    file = tmp_path / FILE
    filled(file).save()
    kept = load_file(file)
    assert kept["pair"].tolist() == [0, 5]
    assert kept["logits"].tolist() == [[0.0, 0.0], [21.0, -2.0]]
    cache = empty(file=file)
    cache.load()
    assert ask(cache, [1, 0], [0, 0]) == ([[10.0, -1.0], [0.0, 0.0]], [(0, 0), (1, 0)])  # (0, 0) to compare
    cache.save()
    assert load_file(file)["pair"].tolist() == [0, 2, 5]
    assert files_in(tmp_path) == {file.name}


def test_what_two_runs_find_out_is_joined(tmp_path: Path) -> None:
    file = tmp_path / FILE
    one, other = empty(file=file), empty(file=file)
    for cache in (one, other):
        cache.load()
    ask(one, [0, 2], [0, 1])
    ask(other, [1, 2], [0, 1])
    one.save()
    other.save()
    assert load_file(file)["pair"].tolist() == [0, 2, 5]


def test_a_file_of_another_name_is_not_used(tmp_path: Path) -> None:
    filled(tmp_path / FILE).save()
    other = tmp_path / FILE.replace("fedcba", "000000")
    (tmp_path / FILE).rename(other)
    cache = empty(file=other)
    with pytest.warns(UserWarning, match="belongs to another cache"):
        cache.load()
    assert bool((cache.table == -torch.inf).all())


def test_a_file_is_written_only_when_there_is_something_new(tmp_path: Path) -> None:
    file = tmp_path / FILE
    cache = filled(file)
    cache.save()
    written = file.stat().st_mtime_ns
    ask(cache, [0, 2], [0, 1])
    cache.save()
    assert file.stat().st_mtime_ns == written


def test_answers_of_weights_that_are_gone_are_removed_and_no_other_file(tmp_path: Path) -> None:
    gone = f"last.ckpt.logits-{'0' * 16}-fedcba9876543210.safetensors"
    others = [
        FILE.replace("fedcba9876543210", "1" * 16),  # the same weights, shown something else
        gone.replace("last", "best"),
        gone.replace("ckpt", "pt"),
        "last.ckpt",
        "last.ckpt.logits-mine.csv",
    ]
    old_name = FILE.replace(".logits-", ".answers-")  # of a version before 0.2
    for name in [gone, old_name, *others]:
        (tmp_path / name).touch()
    filled(tmp_path / FILE).save()
    assert files_in(tmp_path) == {FILE, *others}


def test_no_file_is_no_answers_without_a_word(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = empty(file=tmp_path / "none.safetensors")
        cache.load()
    assert ask(cache, [0], [0])[1] == [(0, 0)]


@pytest.mark.parametrize("made_by", ["cut short", "text", "more images", "more classes", "no answer"])
def test_a_file_that_is_damaged_or_of_another_table_is_not_used(made_by: str, tmp_path: Path) -> None:
    file = tmp_path / FILE
    filled(file).save()
    if made_by == "cut short":
        file.write_bytes(file.read_bytes()[:-5])
    elif made_by == "text":
        file.write_text("no table")
    size = {"more images": (2, 2, 2), "more classes": (3, 2, 3)}.get(made_by, (3, 2, 2))
    if made_by == "no answer":
        file.unlink()
        nothing = empty(file=file)
        nothing._has_new = True
        nothing.save()
    cache = empty(*size, file=file)
    with pytest.warns(UserWarning, match="no logits of this teacher found, the file is rebuilt"):
        cache.load()
    assert bool((cache.table == -torch.inf).all())


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="teacher logits cannot be saved"):
        filled(tmp_path / "file" / FILE).save()


def test_a_full_disk_costs_a_warning_and_leaves_the_file_before(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("before")
    size = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, size[1]))
    try:
        with pytest.warns(UserWarning, match="teacher logits cannot be saved"):
            filled(tmp_path / FILE).save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, size)
        signal.signal(signal.SIGXFSZ, handler)
    assert files_in(tmp_path) == {FILE}
    assert (tmp_path / FILE).read_text() == "before"


def test_a_name_that_the_file_system_does_not_allow_costs_a_warning(tmp_path: Path) -> None:
    cache = filled(tmp_path / f"{'t' * 250}{FILE}")
    with pytest.warns(UserWarning, match="no logits of this teacher found"):
        cache.load()
    ask(cache, [1], [0])
    with pytest.warns(UserWarning, match="teacher logits cannot be saved"):
        cache.save()


def test_others_may_read_the_file(tmp_path: Path) -> None:
    filled(tmp_path / FILE).save()
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o644


def test_the_file_is_named_for_the_checkpoint_and_for_what_is_seen(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes(b"weights")
    file = cache_file(checkpoint, "digits")
    assert file == cache_file(checkpoint, "digits")
    assert CACHE_FILE.fullmatch(file.name)
    assert file.parent == tmp_path
    assert file != cache_file(checkpoint, "letters")
    checkpoint.write_bytes(b"other weights")
    assert file != cache_file(checkpoint, "digits")


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (VGG([[4]], track_running_stats=False), True),
        (VGG([[4]]), False),
        (nn.InstanceNorm2d(3), False),
        (MLP([4, 2]), False),
    ],
    ids=["batch's own", "running", "instance", "none"],
)
def test_a_batch_s_own_statistics_are_found(network: nn.Module, expected: bool) -> None:
    assert uses_batch_statistics(network) is expected
