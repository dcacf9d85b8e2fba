import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kd_lightning.errors import UserError
from kd_lightning.models import MLP, VGG
from kd_lightning.teachers import CachedTeacher, table_file, uses_batch_statistics


class Asked:
    """A teacher of three images under two views: its logits of (i, v) are 10 i + v and -i."""

    def __init__(self, index: list[int], view: list[int]) -> None:
        self.index, self.view = torch.tensor(index), torch.tensor(view)
        self.pairs: list[tuple[int, int]] = []

    def __call__(self, rows: Tensor) -> Tensor:
        index, view = self.index[rows], self.view[rows]
        self.pairs += zip(index.tolist(), view.tolist(), strict=True)
        return torch.stack([10.0 * index + view, -1.0 * index], dim=1)


def ask(cache: CachedTeacher, index: list[int], view: list[int]) -> tuple[list[list[float]], list[tuple[int, int]]]:
    """What the cache says of a batch, and for which pairs it asked the teacher."""
    asked = Asked(index, view)
    return cache.look_up(asked.index, asked.view, asked).tolist(), asked.pairs


def filled() -> CachedTeacher:
    """Of three images and two views: (0, 0) and (2, 1) are known."""
    cache = CachedTeacher(3, 2, 2)
    ask(cache, [0, 2], [0, 1])
    return cache


def test_a_pair_is_asked_for_once() -> None:
    cache = CachedTeacher(3, 2, 2)
    assert ask(cache, [2, 0], [1, 0]) == ([[21.0, -2.0], [0.0, 0.0]], [(2, 1), (0, 0)])
    assert ask(cache, [0, 2, 1], [0, 1, 1]) == ([[0.0, 0.0], [21.0, -2.0], [11.0, -1.0]], [(1, 1)])
    assert ask(cache, [1, 2], [1, 0])[1] == [(2, 0)]  # the same image under another view is another pair


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


@pytest.mark.parametrize(("factor", "refused"), [(1.01, False), (0.5, True), (float("nan"), True)])
def test_a_teacher_that_answers_otherwise_is_refused_but_for_rounding(factor: float, refused: bool) -> None:
    cache = filled()
    cache.end_epoch()
    asked = Asked([0, 2], [0, 1])
    if refused:
        with pytest.raises(UserError, match="cache_teacher: the teacher answers otherwise to the same image and view"):
            cache.look_up(asked.index, asked.view, lambda rows: factor * asked(rows))
    else:
        assert cache.look_up(asked.index, asked.view, lambda rows: factor * asked(rows))[1].tolist() == [21.0, -2.0]


def test_a_table_takes_four_bytes_a_logit() -> None:
    assert CachedTeacher.nbytes(60_000, 25, 10) == 60_000_000
    assert CachedTeacher(3, 2, 5).table.nbytes == CachedTeacher.nbytes(3, 2, 5) == 120


def test_a_file_holds_what_is_known_for_the_next_run(tmp_path: Path) -> None:
    file = tmp_path / "last.answers-a-b.safetensors"
    filled().save(file)
    kept = load_file(file)
    assert kept["pair"].tolist() == [0, 5]
    assert kept["logits"].tolist() == [[0.0, 0.0], [21.0, -2.0]]
    cache = CachedTeacher(3, 2, 2)
    cache.load(file)
    assert ask(cache, [1, 0], [0, 0]) == ([[10.0, -1.0], [0.0, 0.0]], [(0, 0), (1, 0)])  # (0, 0) to compare
    cache.save(file)
    assert load_file(file)["pair"].tolist() == [0, 2, 5]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_file_is_written_only_when_there_is_something_new(tmp_path: Path) -> None:
    file = tmp_path / "last.answers-a-b.safetensors"
    cache = filled()
    cache.save(file)
    written = file.stat().st_mtime_ns
    ask(cache, [0, 2], [0, 1])
    cache.save(file)
    assert file.stat().st_mtime_ns == written


def test_answers_of_weights_that_are_gone_are_removed_and_no_other_file(tmp_path: Path) -> None:
    others = ["last.answers-old-b", "last.answers-a-other", "best.answers-old-b"]
    for name in others:
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / "last.ckpt").touch()
    filled().save(tmp_path / "last.answers-a-b.safetensors")
    names = {path.name.removesuffix(".safetensors") for path in tmp_path.iterdir()}
    assert names == {"last.answers-a-b", *others[1:], "last.ckpt"}


def test_no_file_is_no_answers_without_a_word(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = CachedTeacher(3, 2, 2)
        cache.load(tmp_path / "none.safetensors")
    assert ask(cache, [0], [0])[1] == [(0, 0)]


@pytest.mark.parametrize("made_by", ["cut short", "text", "more images", "more classes", "no answer"])
def test_a_file_that_is_damaged_or_of_another_table_is_not_used(made_by: str, tmp_path: Path) -> None:
    file = tmp_path / "last.answers-a-b.safetensors"
    filled().save(file)
    if made_by == "cut short":
        file.write_bytes(file.read_bytes()[:-5])
    elif made_by == "text":
        file.write_text("no table")
    size = {"more images": (2, 2, 2), "more classes": (3, 2, 3)}.get(made_by, (3, 2, 2))
    if made_by == "no answer":
        empty = CachedTeacher(3, 2, 2)
        empty._new = True
        empty.save(file)
    cache = CachedTeacher(*size)
    with pytest.warns(UserWarning, match="holds no answers of this teacher, and is written anew"):
        cache.load(file)
    assert bool((cache.table == -torch.inf).all())


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the teacher's answers are not kept"):
        filled().save(tmp_path / "none" / "last.answers-a-b.safetensors")


def test_the_file_is_named_for_the_weights_and_for_what_is_shown(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.ckpt"
    torch.manual_seed(0)
    network, other = MLP([4, 3, 2]).bfloat16(), MLP([4, 3, 2]).bfloat16()
    file = table_file(checkpoint, network, "digits")
    assert file == table_file(checkpoint, network, "digits")
    assert file.parent == tmp_path
    assert file.name.startswith("last.answers-")
    assert len({file, table_file(checkpoint, other, "digits"), table_file(checkpoint, network, "letters")}) == 3
    with torch.no_grad():
        network[-1].bias[0] += 1
    assert table_file(checkpoint, network, "digits") != file


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
