"""Training images whose labels are withheld."""

import json
import sys
from pathlib import Path

import pytest

from kd_lightning.__main__ import main
from kd_lightning.errors import UserError
from tests.data.made import TRAIN_LABELS, batches_of_epoch, made


def test_all_but_the_first_images_lose_their_label() -> None:
    data = made(labelled_size=4, batch_size=24)
    assert data.train_label.tolist() == [0, 0, 1, 0] + [-1] * 20
    (batch,) = batches_of_epoch(data)
    labels = dict(zip(batch.index.tolist(), batch.label.tolist(), strict=True))
    assert [labels[place] for place in range(24)] == data.train_label.tolist()


def test_they_are_counted_among_the_images_that_are_trained_on() -> None:
    data = made(labelled_size=3, train_size=10, omit_classes=[0], val_size=6)
    train, val = data.train_positions.tolist(), data.val_positions.tolist()
    assert data.train_label.tolist() == [TRAIN_LABELS[place] for place in train[:3]] + [-1] * (len(train) - 3)
    data.setup("validate")
    labels = data._batch_makers[True].part.label[val].tolist()
    assert labels == [TRAIN_LABELS[place] for place in val]
    made("test", labelled_size=99)  # of the test images no label is withheld


@pytest.mark.parametrize("size", [-1, 25])
def test_a_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"labelled_size: {size} found, 0 to 24 expected"):
        made(labelled_size=size)


def test_a_student_learns_from_images_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    assert main(["fit", "--config", "digits/teacher", "--trainer.max_epochs=10"]) == 0
    words = ["--config", "digits/distill_unlabelled", "--trainer.max_epochs=10"]
    assert main(["fit", *words]) == 0
    assert main(["test", *words]) == 0
    results = json.loads(Path("lightning_logs/digits/distill_unlabelled/seed_0/results.json").read_text())
    assert results["test"]["accuracy"] > 0.7
    capsys.readouterr()
    alone = ["fit", "--config", "digits/baseline", "--data.labelled_size=0", "--trainer.max_epochs=1"]
    assert main(alone) == 2
    assert "label" in capsys.readouterr().err
