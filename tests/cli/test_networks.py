"""Networks and images of one's own, by the words a user types."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from kd_lightning.__main__ import main
from kd_lightning.callbacks.earlier_files import PICTURES
from kd_lightning.cli import lightning
from kd_lightning.errors import UserError
from kd_lightning.models import densenet121

TEACHER = f"--config={Path(__file__).parents[2] / 'configs' / 'digits' / 'teacher.yaml'}"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def tree_of_images(root: Path, classes: int = 3) -> Path:
    for part, count in (("train", 6), ("test", 2)):
        for c in range(classes):
            folder = root / part / f"class_{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (80 * c, 10 * i, 0)).save(folder / f"{i}.png")
    return root


def on_images(root: Path, net: str) -> list[str]:
    data = ["--data=kd_lightning.data.ImageFolderDataModule", f"--data.root={root}", "--data.image_size=32"]
    trainer = ["--trainer.max_epochs=1", f"--trainer.logger.save_dir={root.parent / 'runs'}"]
    return [f"--model.net={net}", *data, "--data.batch_size=9", *trainer]


@pytest.mark.parametrize(
    "net",
    ["torchvision.models.squeezenet1_1", "torchvision.models.mobilenet_v3_small", "kd_lightning.models.LightNN"],
)
def test_a_network_gets_as_many_classes_as_the_data_has(net, tmp_path):
    words = [TEACHER, *on_images(tree_of_images(tmp_path / "images"), net)]
    trained = lightning.main(["fit", *words])
    assert trained.model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    saved = next((tmp_path / "runs").rglob("config.yaml")).read_text()
    assert "num_classes: 3" in saved
    lightning.main(["predict", *words])
    table = next((tmp_path / "runs").rglob("predictions.csv")).read_text().splitlines()
    assert table[0] == "index,file,class,probability"
    files = sorted(line.split(",")[1] for line in table[1:])
    assert files == [f"test/class_{c}/{i}.png" for c in range(3) for i in range(2)]


def test_a_class_name_is_drawn_as_it_is_and_not_as_a_formula(tmp_path):
    root, name = tree_of_images(tmp_path / "images"), r"cost $x_$ and $\frac$"
    for part in ("train", "test"):
        (root / part / "class_1").rename(root / part / name)
    words = [TEACHER, *on_images(root, "kd_lightning.models.LightNN")]
    assert main(["fit", *words]) == 0
    assert main(["test", *words]) == 0
    (results,) = (tmp_path / "runs").rglob("results.json")
    assert name in json.loads(results.read_text())["class_names"]
    assert all((results.parent / file).is_file() for file in PICTURES)


def test_a_number_of_classes_that_was_asked_for_and_is_wrong_is_refused(tmp_path):
    words = on_images(tree_of_images(tmp_path / "images"), "kd_lightning.models.LightNN")
    with pytest.raises(UserError, match="LightNN has 7 classes, the data has 3"):
        lightning.main(["fit", TEACHER, *words, "--model.net.num_classes=7"])


@pytest.mark.parametrize(
    ("net", "options", "expected"),
    [
        ("VGG", ["--model.net.blocks=[[4],[4],[4],[4],[4],[4]]"], "VGG cannot read images of 3x32x32"),
        (
            "VGG",
            ["--model.net.blocks=[[4],[4],[4],[4],[4],[4]]", "--model.net.track_running_stats=false"],
            "VGG cannot read images of 3x32x32",
        ),
        ("SmallCNN", ["--model.net.image_size=32"], "image_size 32 is too small"),
        ("LightNN", ["--model.net.image_size=64"], "LightNN cannot read images of 3x32x32"),
        ("densenet121", ["--model.net.weights=none.pt"], "weights: no file none.pt"),
        ("densenet121", ["--model.net.weights=notes.pt"], "weights: notes.pt is not a checkpoint"),
        ("pretrained", ["--model.net.name=resnet81", "--model.net.weights=notes.pt"], "name: resnet81 found"),
    ],
)
def test_a_network_that_does_not_fit_the_images_or_its_file_is_one_line(net, options, expected, tmp_path, capsys):
    Path("notes.pt").write_text("no weights")
    words = [*on_images(tree_of_images(tmp_path / "images"), f"kd_lightning.models.{net}"), *options]
    assert main(["fit", TEACHER, *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert expected in line
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda root: (root / "train/class_1/0.png").write_bytes(b"\x89PNG"), "1 of 18 images cannot be read"),
        (lambda root: (root / "train/class_3").mkdir(), "holds no image"),
        (lambda root: (root / "test/class_0").rename(root / "test/other"), "has classes that"),
        (lambda root: root.rename(root.parent / "elsewhere"), "no folder"),
    ],
)
def test_images_that_cannot_be_used_stop_a_run_before_it_starts(spoil, expected, tmp_path, capsys):
    root = tree_of_images(tmp_path / "images")
    spoil(root)
    words = on_images(root, "kd_lightning.models.LightNN")
    assert main(["fit", TEACHER, *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert expected in line
    assert str(root) in line
    assert not (tmp_path / "runs").exists()


class TakesApart(torch.nn.Module):
    """The commonest network written by hand: its maps are taken apart by `view`, which minds their order in memory."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.linear = torch.nn.Linear(4 * 32 * 32, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = self.conv(image)
        return self.linear(maps.view(maps.size(0), -1))


class TwoAnswers(TakesApart):
    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return super().forward(image), image


def test_a_network_that_takes_its_maps_apart_by_view_learns_teaches_and_is_tested(tmp_path):
    root = tree_of_images(tmp_path / "images")
    words = on_images(root, f"{__name__}.TakesApart")
    lightning.main(["fit", TEACHER, *words, "--trainer.logger.name=teacher"])
    (teacher,) = (tmp_path / "runs").rglob("last.ckpt")
    student = [*words, "--model=kd_lightning.modules.DistillModule", f"--model.teacher_ckpt={teacher}"]
    networks = [f"--model.net={__name__}.TakesApart", f"--model.teacher={__name__}.TakesApart"]
    config = [TEACHER, *student, *networks, "--trainer.logger.name=student"]
    lightning.main(["fit", *config])
    lightning.main(["test", *config])
    results = json.loads(next((tmp_path / "runs" / "student").rglob("results.json")).read_text())
    assert set(results["latency"]) == {"batch_1", "batch_128"}


def test_a_network_with_several_answers_is_refused_in_one_line(tmp_path):
    words = on_images(tree_of_images(tmp_path / "images"), f"{__name__}.TwoAnswers")
    with pytest.raises(UserError, match="TwoAnswers returns a tuple, a tensor of logits expected"):
        lightning.main(["fit", TEACHER, *words])


def test_a_checkpoint_needs_no_weights_beside_itself(tmp_path):
    root = tree_of_images(tmp_path / "images")
    net = "kd_lightning.models.densenet121"
    weights = tmp_path / "imagenet.pt"
    torch.save(densenet121().state_dict(), weights)
    words = [TEACHER, *on_images(root, net), "--trainer.limit_train_batches=1", "--data.batch_size=4"]
    lightning.main(["fit", *words, f"--model.net.weights={weights}"])
    weights.unlink()
    lightning.main(["test", *words, f"--model.net.weights={weights}"])
    assert len(list((tmp_path / "runs").rglob("confusion.png"))) == 1


def test_a_pretrained_network_of_torchvision_teaches_with_a_head_of_its_own(tmp_path):
    words = on_images(tree_of_images(tmp_path / "images"), "kd_lightning.models.pretrained")
    weights = tmp_path / "imagenet.pt"
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), weights)
    large = ["name=shufflenet_v2_x0_5", f"weights={weights}"]
    lightning.main(["fit", TEACHER, *words, *[f"--model.net.{option}" for option in large]])
    weights.unlink()  # the teacher's are those of its checkpoint
    (teacher,) = (tmp_path / "runs").rglob("last.ckpt")
    student = on_images(tmp_path / "images", "kd_lightning.models.LightNN")
    options = [f"--model.teacher_ckpt={teacher}", "--model.teacher=kd_lightning.models.pretrained"]
    options += [f"--model.teacher.{option}" for option in large]
    module = "--model=kd_lightning.modules.DistillModule"
    trained = lightning.main(["fit", TEACHER, module, *student, *options, "--trainer.logger.name=student"])
    assert trained.model.teacher.network.fc.out_features == 3


def test_weights_of_torchvision_with_classes_of_one_s_own_are_refused_with_the_way_out(tmp_path):
    words = on_images(tree_of_images(tmp_path / "images"), "torchvision.models.resnet18")
    expected = "resnet18 with weights has 1000 classes, the data 3; kd_lightning.models.pretrained"
    with pytest.raises(UserError, match=expected):
        lightning.main(["fit", TEACHER, *words, "--model.net.weights=DEFAULT"])


def test_a_test_on_a_tree_that_changed_after_training_is_refused(tmp_path, capsys):
    root = tree_of_images(tmp_path / "images") / "train"
    words = [TEACHER, *on_images(root, "kd_lightning.models.LightNN")]
    assert main(["fit", *words]) == 0
    assert main(["test", *words]) == 0
    Image.new("RGB", (32, 32)).save(root / "class_0" / "new.png")
    assert main(["test", *words]) == 2
    assert "its training images may be among the test images" in capsys.readouterr().err


class KeepsALayerFrozen(TakesApart):
    """Fine-tuning with a layer that stays as it is."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__(num_classes)
        self.norm = torch.nn.BatchNorm2d(3).eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(self.norm(image))


def test_a_layer_in_evaluation_mode_stays_in_it(tmp_path):
    words = on_images(tree_of_images(tmp_path / "images"), f"{__name__}.KeepsALayerFrozen")
    trained = lightning.main(["fit", TEACHER, *words])
    assert trained.model.net.training
    assert not trained.model.net.norm.training
    assert trained.model.net.norm.num_batches_tracked == 0


class Fails(TakesApart):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        raise IndexError("of two\nlines")


def test_a_network_that_fails_in_any_way_is_one_line(tmp_path):
    words = on_images(tree_of_images(tmp_path / "images"), f"{__name__}.Fails")
    with pytest.raises(UserError, match=r"Fails cannot read images of 3x32x32 \(of two lines\)"):
        lightning.main(["fit", TEACHER, *words])


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_auxiliary_outputs_are_refused_before_training(tmp_path):
    words = on_images(tree_of_images(tmp_path / "images"), "torchvision.models.googlenet")
    with pytest.raises(UserError, match="GoogLeNet returns auxiliary outputs too, aux_logits: false expected"):
        lightning.main(["fit", TEACHER, *words])


def test_batches_of_one_image_for_batch_norm_are_refused_in_one_line(tmp_path):
    words = on_images(tree_of_images(tmp_path / "images"), "torchvision.models.resnet18")
    with pytest.raises(UserError, match="batch_size: 1 found, on which ResNet cannot be trained"):
        lightning.main(["fit", TEACHER, *words, "--data.batch_size=1"])


class NamesItsStart(TakesApart):
    def __init__(self, weights: str = "uniform", num_classes: int = 5) -> None:
        super().__init__(num_classes)
        self.weights = weights


def test_an_option_of_one_s_own_that_is_called_weights_is_kept(tmp_path):
    words = [TEACHER, *on_images(tree_of_images(tmp_path / "images"), f"{__name__}.NamesItsStart")]
    lightning.main(["fit", *words])
    assert lightning.main(["test", *words]).model.net.weights == "uniform"
