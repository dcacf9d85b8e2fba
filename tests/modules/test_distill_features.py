"""A student that is matched to its teacher's inner layers, in Python and by the words a user types."""

import copy
import pickle
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from kd_lightning.__main__ import main
from kd_lightning.batch import Batch
from kd_lightning.cli import lightning
from kd_lightning.data import DigitsDataModule
from kd_lightning.errors import UserError
from kd_lightning.losses import CosineHiddenLoss, FeatureMapLoss
from kd_lightning.models import CNN
from kd_lightning.modules import DistillModule, FeatureMatch
from kd_lightning.modules.feature_hooks import record_outputs

# On images of 8x8, pool2 gives 4x2x2 in the student and 8x2x2 in the teacher.
STUDENT, TEACHER = [3, 4], [6, 8]


def network(channels):
    return CNN(channels, hidden=[16], image_size=8)


@pytest.fixture
def teacher_file(tmp_path):
    torch.manual_seed(1)
    file = tmp_path / "teacher.pt"
    torch.save(network(TEACHER).state_dict(), file)
    return str(file)


def student(teacher_file, *features, **options):
    torch.manual_seed(2)
    settings = {"features": features, "feature_weight": 0.5, **options}
    return DistillModule(network(STUDENT), network(TEACHER), teacher_file, **settings)


def maps():
    return FeatureMatch("pool2", "pool2", FeatureMapLoss(4, 8))


def hidden():
    return FeatureMatch("flatten", "flatten", CosineHiddenLoss())


def fit(module, **options):
    settings = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(**settings, enable_model_summary=False, accelerator="cpu", **options)
    trainer.fit(module, datamodule=DigitsDataModule(train_size=100, batch_size=50))
    return trainer


def a_batch():
    image, label = torch.randn(6, 1, 8, 8), torch.arange(6)
    return Batch(image, label, label, torch.zeros_like(label))


def parts_of(module, batch):
    seen = {}
    module.train_means.update = lambda parts, images: seen.update(parts)
    module.training_step(batch, 0)
    return seen


def test_the_loss_is_the_weighted_sum_with_the_plain_sum_of_the_features_losses(teacher_file):
    match, other = maps(), hidden()
    module = student(teacher_file, match, other, hard_weight=0.25, soft_weight=0.5, feature_weight=2.0)
    batch = a_batch()
    parts = parts_of(module, batch)
    ours, theirs = (nn.Sequential(*list(net)[:6])(batch.image) for net in (module.net, module.teacher.network))
    feature = match.loss(ours, theirs) + other.loss(ours.flatten(1), theirs.flatten(1))
    torch.testing.assert_close(parts["feature_loss"], feature)
    expected = 0.25 * parts["hard_loss"] + 0.5 * parts["soft_loss"] + 2.0 * feature
    torch.testing.assert_close(parts["loss"], expected)


def test_without_features_there_is_no_part_of_that_name(teacher_file):
    assert "feature_loss" not in parts_of(student(teacher_file, feature_weight=0.0), a_batch())


def test_each_network_runs_once_a_training_step(teacher_file):
    module = student(teacher_file, maps(), hidden())
    runs = []
    module.net.conv1.register_forward_hook(lambda *_: runs.append("student"))
    module.teacher.network.conv1.register_forward_hook(lambda *_: runs.append("teacher"))
    module.training_step(a_batch(), 0)
    assert sorted(runs) == ["student", "teacher"]


def test_nothing_is_held_between_steps_nor_in_evaluation(teacher_file, monkeypatch):
    recorded = []

    @contextmanager
    def record(*args):
        with record_outputs(*args) as outputs:
            recorded.append(outputs)
            yield outputs
            assert outputs

    for module in ("distill", "student"):
        monkeypatch.setattr(f"kd_lightning.modules.{module}.record_outputs", record)
    module = student(teacher_file, maps())
    module.training_step(a_batch(), 0)
    module.validation_step(a_batch(), 0)
    assert recorded == [{}] * 4
    assert not any(layer._forward_hooks for layer in [*module.net.modules(), *module.teacher.network.modules()])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_every_precision_trains_student_and_regressor_and_leaves_the_teacher_as_it_was(teacher_file, precision):
    match = maps()
    seen = []
    match.loss.register_forward_hook(lambda loss, args, output: seen.append(output.dtype) if loss.training else None)
    module = student(teacher_file, match, hidden())
    before, saved = copy.deepcopy(module.state_dict()), torch.load(teacher_file, weights_only=True)
    trainer = fit(module, precision=precision)
    assert set(seen) == {torch.float64 if precision == "64-true" else torch.float32}
    after = module.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name].to(before[name].dtype))]
    assert {"net.conv1.weight", "feature_losses.0.regressor.weight"} <= set(changed)
    dtype = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)
    for name, tensor in module.teacher.network.state_dict().items():
        assert torch.equal(tensor.cpu(), saved[name].to(dtype))
    trained = [parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]]
    expected = [*module.net.parameters(), *match.loss.parameters()]
    assert {id(parameter) for parameter in trained} == {id(parameter) for parameter in expected}


def test_the_check_before_training_leaves_a_loss_as_it_is(teacher_file):
    norm = nn.BatchNorm2d(4)
    match = maps()
    match.loss.regressor = nn.Sequential(norm, match.loss.regressor)
    match.loss.regressor.in_channels, match.loss.regressor.out_channels = 4, 8
    module = student(teacher_file, match)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.datamodule = DigitsDataModule(train_size=100)
    module.trainer = trainer
    draw = torch.get_rng_state()
    module.setup("fit")
    assert torch.equal(torch.get_rng_state(), draw)
    assert norm.training
    assert norm.num_batches_tracked == 0


def test_loaders_given_one_by_one_train_too(teacher_file):
    module = student(teacher_file, maps())
    data = DigitsDataModule(train_size=100, batch_size=50)
    data.setup("fit")
    loader = DataLoader([data.make_batch(torch.arange(50))], batch_size=None)
    settings = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(**settings, enable_model_summary=False, accelerator="cpu").fit(module, loader)
    assert module.global_step == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_trains_by_itself(teacher_file, copied):
    module = student(teacher_file, maps())
    module.training_step(a_batch(), 0)
    twin = copied(module)
    before = copy.deepcopy(module.state_dict())
    fit(twin)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not torch.equal(twin.feature_losses[0].regressor.weight, module.feature_losses[0].regressor.weight)
    assert twin.features[0].loss is twin.feature_losses[0]


def test_weight_and_features_are_given_together_or_not_at_all(teacher_file):
    with pytest.raises(UserError, match=r"feature_weight: -1.0 found, a number of at least 0 expected"):
        student(teacher_file, maps(), feature_weight=-1.0)
    with pytest.raises(UserError, match=r"feature_weight: 0 found, a number above 0 expected where there are features"):
        student(teacher_file, maps(), feature_weight=0.0)
    with pytest.raises(UserError, match=r"features: none found, at least one expected for a feature_weight of 0.5"):
        student(teacher_file)
    with pytest.raises(UserError, match="hard_weight, soft_weight, feature_weight: all 0 found"):
        student(teacher_file, hard_weight=0.0, soft_weight=0.0, feature_weight=0.0)
    student(teacher_file, maps(), hard_weight=0.0, soft_weight=0.0)


@pytest.mark.parametrize(
    ("match", "message"),
    [
        (
            FeatureMatch("pool1", "pool2", FeatureMapLoss(4, 8)),
            "student_layer pool1 returns 2x3x4x4 and teacher_layer",
        ),
        (
            FeatureMatch("pool2", "conv2", FeatureMapLoss(4, 8)),
            "teacher_layer conv2 returns 2x8x4x4, which FeatureMapL",
        ),
        (
            FeatureMatch("linear1", "classifier", CosineHiddenLoss()),
            "returns 2x16 and teacher_layer classifier returns",
        ),
        (FeatureMatch("linear1", "linear1", nn.Bilinear(3, 3, 1)), r"which Bilinear does not take"),
        (FeatureMatch("linear1", "linear", CosineHiddenLoss()), r"teacher_layer linear found, a layer of CNN expected"),
    ],
)
def test_layers_that_do_not_fit_are_named_before_any_step(teacher_file, match, message):
    module = student(teacher_file, match)
    with pytest.raises(UserError, match=f"^features: .*{message}") as refusal:
        fit(module)
    assert "\n" not in str(refusal.value)
    assert module.global_step == 0


# By the user's door.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def write_config(name, module, **init_args):
    logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "logs", "name": name, "version": "seed_0"},
    }
    config = {
        "seed_everything": 0,
        "threads": 1,
        "model": {"class_path": f"kd_lightning.modules.{module}", "init_args": init_args},
        "data": {
            "class_path": "kd_lightning.data.DigitsDataModule",
            "init_args": {"train_size": 100, "batch_size": 50},
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": logger, "enable_model_summary": False},
    }
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return str(path)


def net(channels):
    options = {"channels": channels, "hidden": [16], "image_size": 8}
    return {"class_path": "kd_lightning.models.CNN", "init_args": options}


MAPS = {
    "student_layer": "pool2",
    "teacher_layer": "pool2",
    "loss": {
        "class_path": "kd_lightning.losses.FeatureMapLoss",
        "init_args": {"student_channels": 4, "teacher_channels": 8},
    },
}
HIDDEN = {
    "student_layer": "flatten",
    "teacher_layer": "flatten",
    "loss": {"class_path": "kd_lightning.losses.CosineHiddenLoss"},
}


def distill_config(*features, **options):
    """A config that names its features before its networks: the order in the file must not matter."""
    settings = {"features": list(features), "feature_weight": 0.25, "teacher": net(TEACHER), "net": net(STUDENT)}
    return write_config("distill", "DistillModule", teacher_ckpt="logs/teacher/seed_0", **settings, **options)


def train_teacher():
    assert main(["fit", "--config", write_config("teacher", "TeacherModule", net=net(TEACHER))]) == 0


@pytest.mark.usefixtures("folder")
def test_students_of_one_seed_start_from_the_same_weights_with_features_and_without():
    train_teacher()
    starts = []
    for config in (write_config("baseline", "TeacherModule", net=net(STUDENT)), distill_config(MAPS, HIDDEN)):
        words = ["fit", "--config", config, "--seed_everything=7", "--trainer.max_epochs=0"]
        starts.append(lightning.main(words).model.net.state_dict())
    baseline, matched = starts
    assert all(torch.equal(baseline[name], matched[name]) for name in baseline)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("match", [MAPS, HIDDEN], ids=["maps", "hidden"])
def test_a_student_is_trained_resumed_and_tested_with_its_teacher_gone(match):
    train_teacher()
    config = distill_config(match)
    assert main(["fit", "--config", config]) == 0
    events = EventAccumulator("logs/distill/seed_0").Reload()
    assert {"train/feature_loss", "train/hard_loss", "train/soft_loss"} <= set(events.Tags()["scalars"])
    saved = torch.load("logs/distill/seed_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    regressor = {f"feature_losses.0.regressor.{name}" for name in ("weight", "bias")} if match is MAPS else set()
    assert set(saved) == {f"net.{name}" for name in network(STUDENT).state_dict()} | regressor
    words = ["fit", "--config", "logs/distill/seed_0/config.yaml", "--trainer.max_epochs=2"]
    resumed = lightning.main([*words, "--ckpt_path=logs/distill/seed_0"])
    assert resumed.trainer.global_step == 4
    shutil.rmtree("logs/teacher")
    assert main(["test", "--config", config]) == 0
    assert main(["predict", "--config", config]) == 0


@pytest.mark.usefixtures("folder")
@pytest.mark.slow
def test_two_processes_that_share_a_teacher_train_student_and_regressor_as_one_does():
    train_teacher()
    config = distill_config(MAPS)
    assert main(["fit", "--config", config, "--data.batch_size=50", "--trainer.logger.name=one"]) == 0
    program = Path("program.py")
    program.write_text("import sys\nfrom kd_lightning.__main__ import main\nsys.exit(main(sys.argv[1:]))\n")
    words = [sys.executable, str(program), "fit", "--config", config, "--data.batch_size=25", "--trainer.devices=2"]
    words += ["--trainer.strategy=ddp", "--trainer.logger.name=two", "--model.shard_teacher=true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (
        torch.load(f"logs/{name}/seed_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    assert "feature_losses.0.regressor.weight" in two
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "student_layer",
            "pool3",
            "features: student_layer pool3 found, a layer of CNN expected, such as pool2, pool1",
        ),
        ("teacher_layer", "body", "features: teacher_layer body found, a layer of CNN expected, such as conv1, conv_"),
        ("teacher_layer", "pool1", "student_layer pool2 returns 2x4x2x2 and teacher_layer pool1 returns 2x6x4x4"),
    ],
)
def test_a_layer_that_will_not_do_is_named_in_one_line(key, value, message, capsys):
    train_teacher()
    assert main(["fit", "--config", distill_config({**MAPS, key: value})]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd-lightning:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not Path("logs/distill/seed_0/checkpoints").exists()
