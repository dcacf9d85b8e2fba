"""Plain loaders of images and labels, plain data modules, and teachers that come as networks, without a file."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kd_lightning.__main__ import main
from kd_lightning.callbacks import (
    BiasCorrection,
    ConfusionMatrix,
    Dashboard,
    Describer,
    Gallery,
    PredictionWriter,
    ReliabilityDiagram,
    ResultsWriter,
    WorstMistakes,
)
from kd_lightning.data import DigitsDataModule
from kd_lightning.errors import UserError
from kd_lightning.losses import CosineHiddenLoss
from kd_lightning.models import MLP
from kd_lightning.modules import DistillModule, FeatureMatch, TeacherModule

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
CALLBACKS: tuple[Callable[[], Any], ...] = (
    BiasCorrection,
    ConfusionMatrix,
    Dashboard,
    lambda: Describer(None),
    Gallery,
    PredictionWriter,
    ReliabilityDiagram,
    ResultsWriter,
    WorstMistakes,
)


def pairs(count: int = 20) -> list[tuple[Tensor, int]]:
    torch.manual_seed(0)
    return [(torch.rand(1, 6, 6), number % 3) for number in range(count)]


def loader(count: int = 20) -> Any:
    return DataLoader(pairs(count), batch_size=8)


class Plain(LightningDataModule):
    """As anybody writes one."""

    def train_dataloader(self) -> Any:
        return loader()

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


class OnDevice(Plain):
    """Changes its batches on the device, where they are pairs still."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        image, label = batch
        return image * 2, label


class Flat(nn.Module):
    """Takes its images apart in a way that channels last forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(64, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.convolution(image).view(len(image), -1))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def module(kind: str, **options: Any) -> Any:
    if kind == "teacher":
        return TeacherModule(Flat(), **options)
    return DistillModule(MLP([36, 3]), teacher=Flat(), **options)


@pytest.mark.parametrize("kind", ["teacher", "distill"])
@pytest.mark.parametrize("data", [Plain, OnDevice, None], ids=["module", "on the device", "loaders"])
def test_plain_data_trains_validates_tests_and_predicts_with_all_callbacks(kind: str, data: Any) -> None:
    network = module(kind)
    before = [parameter.clone() for parameter in network.net.parameters()]
    trainer = Trainer(**{**QUIET, "logger": CSVLogger("logs")}, max_epochs=2, callbacks=[make() for make in CALLBACKS])
    shown: Any = {"datamodule": data()} if data else {"train_dataloaders": loader(), "val_dataloaders": loader()}
    trainer.fit(network, **shown)
    assert any((new != old).any() for new, old in zip(network.net.parameters(), before, strict=True))
    given: Any = {"datamodule": data()} if data else {"dataloaders": loader()}
    assert "val/accuracy" in trainer.validate(network, **given, verbose=False)[0]
    figures = trainer.test(network, **given, verbose=False)[0]
    assert ("test/agreement" in figures) == (kind == "distill")
    predicted = trainer.predict(network, **given)
    assert predicted is not None
    assert torch.cat(predicted).shape == (20, 3)
    run = Path(trainer.log_dir or "")
    assert {"results.json", "confusion.png", "errors.png", "reliability.png", "predictions.csv"} <= {
        file.name for file in run.iterdir()
    }
    results = json.loads((run / "results.json").read_text())
    assert results["test"]["images"] == 20
    assert results["class_names"] == ["0", "1", "2"]
    assert (run / "predictions.csv").read_text().startswith("index,class,probability\n0,")


@pytest.mark.parametrize("kind", ["TeacherModule", "DistillModule"])
def test_a_plain_data_module_is_named_in_a_config(kind: str) -> None:
    flat = {"class_path": f"{__name__}.Flat"}
    taught = {"teacher": flat} if kind == "DistillModule" else {}
    model = {"class_path": f"kd_lightning.modules.{kind}", "init_args": {"net": flat, **taught, "steps_at_once": 4}}
    config = {"model": model, "data": {"class_path": f"{__name__}.Plain"}, "trainer": {"max_epochs": 1}}
    config["trainer"] |= {"accelerator": "cpu", "enable_model_summary": False}
    Path("config.yaml").write_text(json.dumps(config))
    assert main(["fit", "--config=config.yaml"]) == 0
    (run,) = Path("lightning_logs").iterdir()
    for command in ("validate", "test", "predict"):
        assert main([command, "--config=config.yaml", f"--ckpt_path={run}"]) == 0


def test_images_may_be_vectors_and_labels_of_any_whole_number() -> None:
    for dtype in (torch.int64, torch.int32, torch.uint8):
        data = TensorDataset(torch.rand(12, 36), (torch.arange(12) % 3).to(dtype))
        network = TeacherModule(nn.Linear(36, 3))
        Trainer(**QUIET, max_epochs=1).fit(network, DataLoader(data, batch_size=4))
        images = DataLoader(torch.rand(5, 36), batch_size=4)  # type: ignore[arg-type]  # without labels
        predicted = Trainer(**QUIET).predict(network, images)
        assert predicted is not None
        assert torch.cat(predicted).shape == (5, 3)


def test_layers_of_plain_data_s_networks_are_matched() -> None:
    match = FeatureMatch("convolution", "convolution", CosineHiddenLoss())
    network = DistillModule(Flat(), Flat(), features=[match], feature_weight=1.0)
    Trainer(**QUIET, max_epochs=1).fit(network, loader())
    wrong = DistillModule(
        Flat(), Flat(), features=[FeatureMatch("linear", "convolution", CosineHiddenLoss())], feature_weight=1.0
    )
    with pytest.raises(
        UserError, match="features: student_layer linear returns 2x3 and teacher_layer convolution returns"
    ):
        Trainer(**QUIET, max_epochs=1).fit(wrong, loader())


def batches(*parts: Any) -> Any:
    """A loader of one batch, as it is."""
    return DataLoader([parts if len(parts) > 1 else parts[0]], batch_size=None)  # type: ignore[arg-type]


IMAGE, LABEL = torch.rand(4, 1, 6, 6), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            lambda: batches(IMAGE, LABEL, LABEL),
            r"data: a batch of 3 \(Tensor, Tensor, Tensor\) found, a tensor of images",
        ),
        (lambda: batches({"image": IMAGE, "label": LABEL}), "data: a batch of type dict found"),
        (lambda: batches(IMAGE), "data: a batch of type Tensor found"),
        (lambda: batches(IMAGE, ["a", "b", "c", "d"]), r"data: a batch of 2 \(Tensor, list\) found"),
        (lambda: batches(IMAGE, torch.rand(4, 3)), r"data: labels float32 \(4, 3\) found for images \(4, 1, 6, 6\)"),
        (lambda: batches(IMAGE, LABEL.view(4, 1)), r"data: labels int64 \(4, 1\) found for images"),
        (lambda: batches(IMAGE, LABEL + 1), r"data: label 3 found, 0 to 2 expected"),
        (lambda: batches(torch.rand(4, 3, 5, 5), LABEL), "network: Flat cannot read images of 3x5x5"),
    ],
    ids=["three", "dict", "images alone", "words", "probabilities", "columns", "a label too high", "other images"],
)
def test_batches_of_another_form_are_one_line(data: Any, message: str) -> None:
    for run in ("fit", "test"):
        with pytest.raises(UserError, match=message) as caught:
            getattr(Trainer(**QUIET, max_epochs=1), run)(TeacherModule(Flat()), data())
        assert "\n" not in str(caught.value)


def test_a_teacher_of_other_classes_than_the_student_is_named() -> None:
    with pytest.raises(UserError, match="teacher: MLP has 4 classes, the student has 3"):
        Trainer(**QUIET, max_epochs=1).fit(DistillModule(MLP([36, 3]), MLP([36, 4])), loader())


def test_a_network_that_gives_no_logits_is_named() -> None:
    for network, said in (
        (
            nn.Conv2d(1, 3, 3),
            r"network: Conv2d returns a tensor of shape \(2, 3, 4, 4\) for 2 images, 2 rows of logits",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(0)),
            r"Sequential returns a tensor of shape \(64,\) for 2 images",
        ),
    ):
        with pytest.raises(UserError, match=said):
            Trainer(**QUIET, max_epochs=1).fit(TeacherModule(network), loader())


def test_a_network_is_a_teacher_as_it_is(recwarn: pytest.WarningsRecorder) -> None:
    large = TeacherModule(MLP([64, 32, 10]), optimizer=partial(torch.optim.Adam, lr=0.01))
    data = DigitsDataModule(train_size=200, batch_size=50)
    Trainer(**QUIET, max_epochs=5).fit(large, data)
    weights = [parameter.clone() for parameter in large.net.parameters()]
    recwarn.clear()
    students = []
    for teacher in (large.net, large):  # the module itself means its network
        for cache in (None, True, "all", False):
            torch.manual_seed(1)
            student = DistillModule(MLP([64, 10]), teacher, cache_teacher=cache)  # type: ignore[arg-type]
            Trainer(**QUIET, max_epochs=2).fit(student, data)
            students.append(student)
    for student in students:
        torch.testing.assert_close(list(student.net.parameters()), list(students[0].net.parameters()))
        assert all(map(torch.equal, student.teacher.network.parameters(), weights))
    assert [str(w.message) for w in recwarn if "chance" in str(w.message)] == []
    assert "test/agreement" in Trainer(**QUIET).test(students[0], data, verbose=False)[0]
    assert list(Path().glob("*")) == []  # nothing is cached on disk


def test_a_teacher_that_nobody_trained_is_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    mlp = '={"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 10]}}'
    words = ["--model=kd_lightning.modules.DistillModule", f"--model.net{mlp}", f"--model.teacher{mlp}"]
    words += ["--data=kd_lightning.data.DigitsDataModule", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    assert main(["fit", *words, "--seed_everything=0", "--data.eval_batch_size=64"]) == 0
    (said,) = [str(w.message) for w in recwarn if "chance" in str(w.message)]
    assert said.startswith("teacher_ckpt: none (the MLP as it was built) has an accuracy of ")
