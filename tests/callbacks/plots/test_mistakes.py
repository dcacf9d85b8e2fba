"""Which mistakes are found the worst, and how they are drawn."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.callbacks.plots import mistakes
from kd_lightning.callbacks.plots.mistakes import WorstMistakes, draw_mistakes
from tests.data.made import TEST_LABELS, made

NAMES = ("ant", "bee", "cow")

# Probabilities of ant, bee and cow for the six test images, which are of the classes 0, 1, 2, 2, 1, 0.
SAID = torch.tensor(
    [[0.9, 0.05, 0.05], [0.6, 0.3, 0.1], [0.01, 0.98, 0.01], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.05, 0.9, 0.05]]
)
TAUGHT = torch.tensor([[0.8, 0.1, 0.1]]).expand(6, 3)


def look(taught: Tensor | None, run: Path, processes: int = 1, said: Tensor = SAID, **module: Any) -> None:
    """Show the six images to the callback, four and two, as a test does."""
    data, callback = made("test"), WorstMistakes()
    logger = SimpleNamespace(log_dir=str(run))
    trainer: Any = SimpleNamespace(
        world_size=processes,
        is_global_zero=True,
        datamodule=data,
        logger=logger,
        loggers=[logger],
        log_dir=str(run),
        fast_dev_run=False,
    )

    def all_gather(found: Any) -> Any:  # each process the same, as where they share a test set that is too small
        return found if processes == 1 else type(found)(*(torch.stack([part] * processes) for part in found))

    this: Any = SimpleNamespace(all_gather=all_gather, **module)
    callback.on_test_epoch_start(trainer, this)
    for rows in (torch.arange(4), torch.arange(4, 6)):
        this.last_teacher_logits = None if taught is None else taught[rows].log()
        batch = Batch(torch.zeros(len(rows), 1, 6, 6), torch.tensor(TEST_LABELS)[rows], rows, torch.zeros_like(rows))
        callback.on_test_batch_end(trainer, this, said[rows].log(), batch, 0)
    callback.on_test_epoch_end(trainer, this)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is given to be drawn; it is drawn nevertheless."""
    calls: list[dict[str, Any]] = []

    def draw(images: Tensor, label: Any, said: Any, probabilities: Any, names: Any, title: str) -> Any:
        calls.append({"images": images, "label": label, "said": said, "probabilities": probabilities, "title": title})
        return draw_mistakes(images, label, said, probabilities, names, title)

    monkeypatch.setattr(mistakes, "draw_mistakes", draw)
    return calls


@pytest.mark.parametrize("processes", [1, 2])
def test_the_worst_mistakes_come_first_once_each_as_their_images_are(
    processes: int, drawn: list[dict[str, Any]], tmp_path: Path
) -> None:
    look(TAUGHT, tmp_path, processes, teacher=True, temperature=2.0)
    (shown,) = drawn
    # The label has 0.01 of image 2, 0.05 of image 5, and 0.3 of images 1 and 3; images 0 and 4 are named right.
    levels = (shown["images"][:, 0, 0, 0] * 255).round().int().tolist()
    assert levels[:2] == [202, 205]
    assert sorted(levels[2:]) == [201, 203]
    assert shown["label"][:2] == [2, 0]
    assert shown["said"][:2] == [1, 1]
    # At T = 2 probabilities are as their square roots: 0.1, 0.99 and 0.1 of 1.19; of the teacher 0.894, 0.316, 0.316.
    student, teacher = (shown["probabilities"][name] for name in ("student", "teacher"))
    assert student[0].tolist() == pytest.approx([0.0840, 0.8319, 0.0840], abs=1e-4)
    assert teacher[0].tolist() == pytest.approx([0.5858, 0.2071, 0.2071], abs=1e-4)
    assert shown["title"] == "worst mistakes and class probabilities at temperature 2"
    assert (tmp_path / "mistakes.png").stat().st_size > 1000


def test_a_network_without_a_teacher_has_its_own_probabilities_alone(
    drawn: list[dict[str, Any]], tmp_path: Path
) -> None:
    look(None, tmp_path)
    assert drawn[0]["probabilities"].keys() == {"network"}
    assert drawn[0]["probabilities"]["network"][0].tolist() == pytest.approx([0.01, 0.98, 0.01])
    look(None, tmp_path, teacher=True, temperature=2.0)  # whose file is gone
    assert drawn[1]["probabilities"].keys() == {"student"}


def test_no_more_than_eight_are_kept_and_a_network_without_mistakes_has_no_picture(
    drawn: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mistakes, "MAX_MISTAKES", 3)
    look(None, tmp_path)
    assert len(drawn[0]["images"]) == 3
    look(None, tmp_path, said=torch.eye(3)[TEST_LABELS] + 1e-3)
    assert len(drawn) == 1
    assert not (tmp_path / "mistakes.png").exists()


def test_a_picture_has_an_image_and_bars_of_each_class_and_network() -> None:
    probabilities = {"student": torch.tensor([[0.7, 0.2, 0.1]]), "teacher": torch.tensor([[0.4, 0.5, 0.1]])}
    figure = draw_mistakes(torch.full((1, 3, 4, 4), 0.5), [1], [0], probabilities, NAMES, "one mistake")
    picture, bars = figure.axes
    assert picture.get_title(loc="left") == "bee, predicted ant"
    assert picture.images[0].get_array().shape == (4, 4, 3)
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([0.7, 0.2, 0.1, 0.4, 0.5, 0.1])
    assert [tick.get_text() for tick in bars.get_yticklabels()] == ["ant", "bee", "cow"]
    assert [tick.get_fontweight() for tick in bars.get_yticklabels()] == ["normal", "bold", "normal"]


def test_of_many_classes_the_likeliest_and_the_label_have_bars() -> None:
    probability = torch.arange(40.0).softmax(dim=0)[None]
    names = [f"a class of a long name, {c}" for c in range(40)]
    figure = draw_mistakes(torch.zeros(1, 1, 4, 4), [5], [39], {"network": probability}, names, "")
    assert len(figure.axes[1].patches) == 10
    assert [bar.get_width() for bar in figure.axes[1].patches] == pytest.approx(
        probability[0, [5, *range(31, 40)]].tolist()
    )
    assert figure.axes[1].get_yticklabels()[0].get_text() == "a class of …"
