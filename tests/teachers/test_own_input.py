"""A teacher that reads images of another size, mean and std than its student's data."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import Trainer
from torch import Tensor, nn

from kd_lightning.__main__ import main
from kd_lightning.checkpoints.description import describe
from kd_lightning.checkpoints.digest import weights_digest
from kd_lightning.cli import lightning
from kd_lightning.data import DigitsDataModule
from kd_lightning.errors import UserError
from kd_lightning.models import MLP
from kd_lightning.modules import TeacherModule
from kd_lightning.teachers import EnsembleTeacher, OwnInput, load_teacher, read_trained
from tests.data.made import MadeDataModule


class Tiny(nn.Module):
    """A network of a user's: one layer on images of 12x12 pixels."""

    def __init__(self, num_classes: int = 10, pretrained_cfg: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU())
        self.head = nn.Linear(16, num_classes)
        if pretrained_cfg:
            self.pretrained_cfg = pretrained_cfg

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image))


def published(num_classes: int = 10) -> nn.Module:
    """A network that states what its weights were trained on, as timm's do."""
    return Tiny(num_classes, {"input_size": (1, 12, 12), "mean": (0.25,), "std": (0.5,)})


def data(mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.25,)) -> Any:
    return DigitsDataModule(train_size=60, mean=mean, std=std)


def test_an_image_is_normalised_as_in_the_network_s_training() -> None:
    wrapped = OwnInput(nn.Identity(), mean=[0.25], std=[0.5])
    wrapped.prepare(data())
    pixel = torch.tensor([0.0, 0.25, 1.0]).view(1, 1, 1, 3)
    shown = (pixel - 0.5) / 0.25
    torch.testing.assert_close(wrapped(shown), torch.tensor([[[[-0.5, 0.0, 1.5]]]]))


def test_grey_images_are_repeated_for_a_network_of_three_channels() -> None:
    wrapped = OwnInput(nn.Identity(), mean=[0.0, 0.5, 1.0], std=[1.0, 0.5, 1.0])
    wrapped.prepare(data())
    assert wrapped(torch.zeros(1, 1, 1, 1)).flatten().tolist() == [0.5, 0.0, -0.5]  # a pixel of 0.5


@pytest.mark.parametrize(("size", "antialias"), [(4, True), (20, False)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_an_image_is_resized_and_keeps_its_memory_format(
    size: int, antialias: bool, memory_format: Any, mode: Any
) -> None:
    wrapped = OwnInput(nn.Identity(), image_size=size, interpolation=mode)
    wrapped.prepare(data())
    image = torch.rand(2, 3, 8, 8).to(memory_format=memory_format)
    expected = F.interpolate(image, (size, size), mode=mode, antialias=antialias)
    torch.testing.assert_close(wrapped(image), expected)
    assert wrapped(image).is_contiguous(memory_format=memory_format)
    assert wrapped(image.bfloat16()).dtype == torch.bfloat16


def test_the_data_s_own_format_changes_no_bit() -> None:
    wrapped = OwnInput(nn.Identity(), image_size=8, mean=[0.5], std=[0.25])
    wrapped.prepare(data())
    image = torch.rand(2, 1, 8, 8)
    assert torch.equal(wrapped(image), image)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": 0}, "image_size: 0 found, at least 1 pixel expected"),
        ({"mean": [0.5]}, "mean and std: one of them found, both or neither expected"),
        ({"mean": [0.5], "std": [0.0]}, r"std: \[0.0\] found, values above 0 expected"),
        ({"interpolation": "nearest"}, "interpolation: nearest found, bilinear or bicubic expected"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        OwnInput(nn.Identity(), **options)


def test_what_cannot_be_known_is_named() -> None:
    with pytest.raises(UserError, match="neither the checkpoint nor Identity states what it reads"):
        OwnInput(nn.Identity()).prepare(data())
    with pytest.raises(UserError, match="data: a loader states no mean and std, both expected for OwnInput"):
        OwnInput(nn.Identity(), 8).prepare(None)
    with pytest.raises(UserError, match="2 values found, 1 or 3 expected"):
        OwnInput(nn.Identity(), mean=[0.0, 0.0], std=[1.0, 1.0]).prepare(data([0.1, 0.2, 0.3], [1.0, 1.0, 1.0]))
    with pytest.raises(UserError, match="unknown before setup"):
        OwnInput(nn.Identity(), 8)(torch.rand(1, 1, 8, 8))


def test_what_is_not_given_is_what_the_network_states() -> None:
    wrapped = OwnInput(published(), image_size=6)
    wrapped.prepare(data())
    assert wrapped.format == ((6, 6), (0.25,), (0.5,), None)
    assert wrapped.body is wrapped.network.body
    network = published()
    network.pretrained_cfg["interpolation"] = "bicubic"
    wrapped = OwnInput(network, image_size=6)
    wrapped.prepare(data())
    assert wrapped.format.interpolation == "bicubic"


NET = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 8, 10]}}
TEACHER = {"class_path": f"{__name__}.Tiny"}
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def wrapped(**options: Any) -> dict[str, Any]:
    return {"class_path": "kd_lightning.OwnInput", "init_args": {"network": TEACHER, **options}}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    torch.manual_seed(3)
    torch.save(Tiny().state_dict(), "tiny.pt")


def words(teacher: dict[str, Any], ckpt: Any = "tiny.pt", command: str = "fit", **options: Any) -> list[str]:
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "logs", "name": "s", "version": "seed_0"},
    }
    model = {"net": NET, "teacher": teacher, "teacher_ckpt": ckpt, **options}
    config = {
        "seed_everything": 0,
        "model": {"class_path": "kd_lightning.DistillModule", "init_args": model},
        "data": {
            "class_path": "kd_lightning.DigitsDataModule",
            "init_args": {"train_size": 60, "mean": [0.5], "std": [0.25]},
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": logger, "enable_model_summary": False},
    }
    Path("student.yaml").write_text(yaml.safe_dump(config))
    return [command, "--config=student.yaml"]


def feature(layer: str) -> dict[str, Any]:
    loss = {"class_path": "kd_lightning.losses.CosineHiddenLoss"}
    match = {"student_layer": "linear1", "teacher_layer": layer, "loss": loss}
    return {"features": [match], "feature_weight": 1.0}


def test_a_student_learns_from_a_teacher_of_another_size_and_normalisation(capsys: Any) -> None:
    teacher = wrapped(image_size=12, mean=[0.25], std=[0.5])
    assert main(words(teacher)) == 0
    assert main([*words(teacher, command="test"), "--pictures=false"]) == 0
    results = json.loads(Path("logs/s/seed_0/results.json").read_text())
    assert "agreement" in results["test"]
    assert results["fit"]["teacher"] == weights_digest(torch.load("tiny.pt", weights_only=True))  # as of its own run
    (cached,) = Path().glob("tiny.pt.logits-*")  # beside the file, as any teacher's
    module = lightning.main(words(teacher, cache_teacher="all")).model
    assert [*Path().glob("tiny.pt.logits-*")] == [cached]
    image = torch.rand(4, 1, 8, 8)
    plain = Tiny()
    plain.load_state_dict(torch.load("tiny.pt", weights_only=True))
    expected = plain(F.interpolate((image * 0.25 + 0.5 - 0.25) / 0.5, (12, 12), mode="bilinear"))
    torch.testing.assert_close(module.run_teacher(image), expected)
    assert main(words(wrapped(image_size=12), cache_teacher="all")) == 0
    assert len([*Path().glob("tiny.pt.logits-*")]) == 2  # another input has logits of its own


def test_its_classes_its_layers_and_those_of_members_are_the_network_s() -> None:
    options = {"image_size": 12, "mean": [0.25], "std": [0.5]}
    built = lightning.main(words(wrapped(**options), **feature("body"), **{"cache_teacher": False}))
    assert "feature_loss" in str(built.trainer.callback_metrics)
    ensemble = {
        "class_path": "kd_lightning.EnsembleTeacher",
        "init_args": {"members": [wrapped(**options), {"class_path": f"{__name__}.published"}]},
    }
    ensemble["init_args"]["members"][1] = {
        "class_path": "kd_lightning.OwnInput",
        "init_args": {"network": ensemble["init_args"]["members"][1]},
    }
    config = words(ensemble, ["tiny.pt", "tiny.pt"], **feature("members.0.body"))
    teacher = lightning.main([*config, "--data.omit_classes=[]"]).model.teacher.network
    assert isinstance(teacher, EnsembleTeacher)
    first, second = teacher.members
    assert first.format == second.format == ((12, 12), (0.25,), (0.5,), None)
    assert torch.equal(first.head.weight, second.head.weight)


class Three(MadeDataModule):
    """Made images of three classes."""

    class_names = ("ant", "bee", "cow")


def test_num_classes_reach_the_network_inside() -> None:
    config = words(wrapped(image_size=12), None)
    built = lightning.build([*config, f"--data={__name__}.Three"])
    assert built.model.teacher.network.head.out_features == 3


def test_a_checkpoint_states_what_its_network_reads(capsys: Any) -> None:
    trainer = Trainer(max_epochs=0, **QUIET)
    trainer.fit(TeacherModule(MLP([64, 10])), data([0.2], [0.4]))
    trainer.save_checkpoint("stated.ckpt")
    teacher = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 10]}}
    assert main(words(teacher, "stated.ckpt")) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "stated.ckpt was trained with mean [0.2] (the data has [0.5]) and std [0.4]" in line
    assert "wrap the network in kd_lightning.OwnInput" in line
    inside = {"class_path": "kd_lightning.OwnInput", "init_args": {"network": teacher}}
    assert torch.allclose(
        torch.tensor(lightning.main(words(inside, "stated.ckpt")).model.teacher.network.format[1]), torch.tensor(0.2)
    )
    inside["init_args"] |= {"mean": [0.3], "std": [0.4]}
    assert main(words(inside, "stated.ckpt")) == 2
    assert "was trained with mean [0.2] (the data has [0.3])" in capsys.readouterr().err


def test_a_teacher_that_was_trained_with_its_own_input_reads_the_same_again(capsys: Any) -> None:
    own = {"image_size": 12, "mean": [0.25], "std": [0.5]}
    data_words = ["--data=kd_lightning.DigitsDataModule", "--data.train_size=60"]
    model = ["--model=kd_lightning.TeacherModule", f"--model.net={json.dumps(wrapped(**own))}"]
    logger = ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=large"]
    assert main(["fit", *model, *data_words, *logger, "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]) == 0
    run = "large/lightning_logs/version_0"
    teacher = lightning.main(words(wrapped(**own), run)).model.teacher.network  # on data of another normalisation
    assert teacher.format == ((12, 12), (0.25,), (0.5,), None)
    assert lightning.main(words(wrapped(), run)).model.teacher.network.format == teacher.format
    student, large = (json.loads(Path(it, "results.json").read_text())["fit"] for it in ("logs/s/seed_0", run))
    assert student["teacher"] == large["weights"]
    capsys.readouterr()
    assert main(words(wrapped(**{**own, "image_size": 16}), run)) == 2
    assert "was trained with image_shape [1, 12, 12] (the data has [1, 16, 16])" in capsys.readouterr().err
    assert main(words(TEACHER, run)) == 2
    assert "wrap the network in kd_lightning.OwnInput" in capsys.readouterr().err


def test_published_weights_of_another_input_are_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    flat = {"class_path": f"{__name__}.published_for_8"}
    torch.save(published_for_8().state_dict(), "flat.pt")
    assert main(words(flat, "flat.pt")) == 0
    (said,) = [str(w.message) for w in recwarn if "published weights" in str(w.message)]
    assert said == (
        "teacher: the published weights of Sequential read mean [0.1] (the data has [0.5]); unless they were trained "
        "again on images like the data's, wrap the network in kd_lightning.OwnInput"
    )
    recwarn.clear()
    assert main(words({"class_path": "kd_lightning.OwnInput", "init_args": {"network": flat}}, "flat.pt")) == 0
    assert [str(w.message) for w in recwarn if "published weights" in str(w.message)] == []


def published_for_8(num_classes: int = 10) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    network.pretrained_cfg = {"input_size": (1, 8, 8), "mean": (0.1,), "std": (0.25,)}
    return network


def test_a_network_of_its_own_input_is_tested_on_any_data_and_exported() -> None:
    config = words(NET)
    net = {"class_path": "kd_lightning.OwnInput", "init_args": {"network": TEACHER, "image_size": 12}}
    plain = yaml.safe_load(Path("student.yaml").read_text())
    plain["model"] = {"class_path": "kd_lightning.TeacherModule", "init_args": {"net": net}}
    Path("student.yaml").write_text(yaml.safe_dump(plain))
    assert main(["test", *config[1:], "--ckpt_path=tiny.pt", "--pictures=false"]) == 0
    assert json.loads(Path("logs/s/seed_0/results.json").read_text())["test"]["images"] == 360
    assert main(config) == 0
    assert main(["export", "logs/s/seed_0", "--config=student.yaml", "--format=torch"]) == 0


def test_an_exported_student_is_compared_with_its_teacher(capsys: Any) -> None:
    torch.save(MLP([144, 10]).state_dict(), "ours.pt")
    network = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [144, 10]}}
    own = {"network": network, "image_size": 12, "mean": [0.25], "std": [0.5]}
    assert main(words({"class_path": "kd_lightning.OwnInput", "init_args": own}, "ours.pt")) == 0
    assert main(["export", "logs/s/seed_0", "--format=torch"]) == 0
    assert "teacher OwnInput, PyTorch" in capsys.readouterr().out


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_network_trained_in_its_own_input_teaches_as_it_read_images(interpolation: str) -> None:
    own = wrapped(image_size=12, interpolation=interpolation)
    config = words(NET)
    plain = yaml.safe_load(Path("student.yaml").read_text())
    plain["model"] = {"class_path": "kd_lightning.TeacherModule", "init_args": {"net": own}}
    Path("student.yaml").write_text(yaml.safe_dump(plain))
    assert main(config) == 0
    [part] = load_teacher(OwnInput(Tiny()), "logs/s/seed_0")
    part.prepare(data())
    assert part.network.format == ((12, 12), (0.5,), (0.25,), interpolation)


def test_an_interpolation_in_a_file_is_one_of_those_known() -> None:
    torch.save(
        {"state_dict": {}, "description": {**describe(data()).plain(), "network": wrapped(interpolation="x")}}, "a"
    )
    with pytest.raises(UserError, match="interpolation: x found, bilinear or bicubic expected"):
        read_trained(torch.load("a")["description"], Tiny(), "teacher_ckpt: a")
