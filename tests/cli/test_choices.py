"""What a user chose stands: no default of ours overrides an option, a number or a callback."""

import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from PIL import Image

from kd_lightning import models
from kd_lightning.__main__ import main
from kd_lightning.callbacks import Dashboard, Describer, Gallery, LastCheckpoint, ResultsWriter
from kd_lightning.cli import lightning
from kd_lightning.cli.arguments import compare_arguments, predict_arguments, predicts_images

MLP = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 10]}}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def write_config(callbacks=None, net=MLP, **trainer):
    if isinstance(callbacks, list):
        callbacks = [{"class_path": name, "init_args": options} for name, options in callbacks]
    config = {
        "seed_everything": 0,
        "threads": 1,
        "model": {"class_path": "kd_lightning.modules.TeacherModule", "init_args": {"net": net}},
        "data": {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": {"train_size": 64, "val_size": 32}},
        "trainer": {"max_epochs": 1, "enable_model_summary": False, "accelerator": "cpu", "callbacks": callbacks},
    }
    config["trainer"].update(trainer)
    Path("given.yaml").write_text(yaml.safe_dump(config))
    return "--config=given.yaml"


def refused(capsys, *words):
    capsys.readouterr()
    assert main(list(words)) == 2
    return capsys.readouterr().err.splitlines()[-1]


LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches")
NUMBERS = (*LIMITS, "overfit_batches", "val_check_interval")


@pytest.mark.parametrize(("written", "read"), [("1", 1), ("1.0", 1.0), ("2", 2), ("0.5", 0.5), ("0", 0)])
def test_a_whole_number_is_one_on_the_command_line_and_in_a_config_and_back(written, read):
    words = [f"--trainer.{name}={written}" for name in NUMBERS]
    Path("numbers.yaml").write_text("trainer:\n" + "".join(f"  {name}: {written}\n" for name in NUMBERS))
    config = write_config()
    for given in (words, ["--config=numbers.yaml"]):
        parsed = lightning.parse(["fit", config, *given])
        Path("again.yaml").write_text(yaml.safe_dump(parsed))
        for options in (parsed, lightning.parse(["fit", "--config=again.yaml"])):
            found = {name: options["trainer"][name] for name in NUMBERS}
            assert {name: (number, type(number)) for name, number in found.items()} == dict.fromkeys(
                NUMBERS, (read, type(read))
            )


def test_the_order_of_the_types_of_an_option_does_not_turn_one_batch_into_an_epoch(monkeypatch):
    """Python keeps one `Union` for both orders: which is which depends on what else was imported."""
    callback = [("tests.cli.test_choices.Halfway", {"at": 1})]
    parsed = lightning.parse(["fit", write_config(callback)])
    assert type(parsed["trainer"]["callbacks"][0]["init_args"]["at"]) is int


class Halfway(TQDMProgressBar):
    def __init__(self, at: float | int = 0.5) -> None:
        super().__init__()
        self.at = at


def test_one_batch_is_one_batch():
    trained = lightning.main(["fit", write_config(), "--data.batch_size=8", "--trainer.limit_train_batches=1"])
    assert trained.trainer.global_step == 1
    words = ["fit", write_config(), "--data.batch_size=8", "--model.steps_at_once=4"]
    assert lightning.main([*words, "--trainer.limit_train_batches=1"]).trainer.global_step == 1
    assert lightning.main([*words, "--trainer.limit_train_batches=1.0"]).trainer.global_step == 8
    saved = yaml.safe_load(Path("lightning_logs/version_0/config.yaml").read_text())
    assert type(saved["trainer"]["limit_train_batches"]) is int


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_gradients_are_clipped_under_any_precision(precision):
    words = [f"--trainer.precision={precision}", "--trainer.gradient_clip_val=0.5"]
    trained = lightning.main(["fit", write_config(), *words])
    assert trained.trainer.optimizers[0].defaults["fused"] is (None if precision == "bf16-mixed" else True)
    assert trained.trainer.global_step == 1


def test_a_fused_optimizer_of_the_user_s_that_cannot_be_clipped_is_one_line(capsys):
    words = ["--model.optimizer=torch.optim.Adam", "--model.optimizer.fused=true", "--trainer.precision=bf16-mixed"]
    line = refused(capsys, "fit", write_config(), *words, "--trainer.gradient_clip_val=0.5")
    assert "optimizer: fused: true found, false expected with gradient_clip_val under bf16-mixed" in line


OURS = {"Dashboard": Dashboard, "ResultsWriter": ResultsWriter, "Gallery": Gallery, "LastCheckpoint": LastCheckpoint}
OURS["Describer"] = Describer


def test_callbacks_of_ours_that_the_user_gives_are_not_added_twice():
    options = {"Describer": {"network": None}, "ResultsWriter": {"label": "mine"}}
    named = [(f"kd_lightning.callbacks.{name}", options.get(name, {})) for name in (*OURS, "PredictionWriter")]
    built = lightning.build(["predict", *write_config(named).split(), "--ckpt_path=" + str(trained_weights())])
    kinds = [type(callback).__name__ for callback in built.trainer.callbacks]
    assert all(kinds.count(name) == 1 for name in (*OURS, "PredictionWriter", "BestCheckpoint"))
    assert next(c for c in built.trainer.callbacks if isinstance(c, ResultsWriter)).label == "mine"


def trained_weights():
    torch.save(models.MLP([64, 10]).state_dict(), "weights.pt")
    return Path("weights.pt")


def test_callbacks_of_the_user_s_stand_beside_ours_where_output_is_no_terminal():
    theirs = [
        ("lightning.pytorch.callbacks.ModelCheckpoint", {"monitor": "val/accuracy", "mode": "max", "filename": "mine"}),
        ("lightning.pytorch.callbacks.ModelCheckpoint", {"save_last": True, "filename": "other"}),
        ("lightning.pytorch.callbacks.TQDMProgressBar", {"refresh_rate": 7}),
        ("lightning.pytorch.callbacks.LearningRateMonitor", {}),
        ("lightning.pytorch.callbacks.ModelSummary", {}),
    ]
    trainer = lightning.main(["fit", write_config(theirs)]).trainer
    bars = [callback for callback in trainer.callbacks if isinstance(callback, TQDMProgressBar)]
    assert [bar.refresh_rate for bar in bars] == [7]
    assert sum(isinstance(callback, ModelCheckpoint) for callback in trainer.callbacks) == 4
    kept = {path.name for path in Path("lightning_logs/version_0/checkpoints").iterdir()}
    assert {"best.ckpt", "last.ckpt", "mine.ckpt", "other.ckpt"} <= kept


@pytest.mark.parametrize(
    ("callbacks", "trainer", "message"),
    [
        (
            ["TQDMProgressBar"],
            {"enable_progress_bar": False},
            "`enable_progress_bar=False` but found `TQDMProgressBar`",
        ),
        (["TQDMProgressBar", "RichProgressBar"], {}, "multiple progress bar callbacks"),
        (["ModelCheckpoint"], {"enable_checkpointing": False}, "`enable_checkpointing=False` but found `ModelCheck"),
        (["LearningRateMonitor", "LearningRateMonitor"], {}, "Found more than one stateful callback"),
        (["LearningRateMonitor"], {"logger": False}, "Cannot use `LearningRateMonitor` callback with `Trainer` that"),
        (["DeviceStatsMonitor"], {"logger": False}, "Cannot use `DeviceStatsMonitor` callback with `Trainer(logger=Fa"),
    ],
)
def test_what_lightning_cannot_do_with_callbacks_is_one_line(callbacks, trainer, message, capsys):
    named = [(f"lightning.pytorch.callbacks.{name}", {}) for name in callbacks]
    if callbacks == ["LearningRateMonitor", "LearningRateMonitor"]:
        named = [("lightning.pytorch.callbacks.ModelCheckpoint", {"monitor": "val/nll"})] * 2
    assert message in refused(capsys, "fit", write_config(named, **trainer))


LOGGED = ("train/loss", "val/accuracy", "val/loss", "val/nll")


@pytest.mark.parametrize(
    ("callbacks", "words", "logged"),
    [
        ([("EarlyStopping", {"monitor": "val/losss"})], [], LOGGED),
        ([("ModelCheckpoint", {"monitor": "val/losss"})], [], LOGGED),
        (
            [("ModelCheckpoint", {"monitor": "val/loss"})],
            ["--data.val_size=0"],
            ["train/loss", "val/… takes"],
        ),
        ([("EarlyStopping", {"monitor": "val/loss"})], ["--data.val_size=0"], ["train/loss"]),
        (
            [],
            ["--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.lr_scheduler.monitor=val/losss"],
            LOGGED,
        ),
    ],
)
def test_a_name_that_is_not_logged_is_one_line_with_those_that_are(callbacks, words, logged, capsys):
    named = [(f"lightning.pytorch.callbacks.{name}", options) for name, options in callbacks]
    line = refused(capsys, "fit", write_config(named), *words)
    assert all(name in line for name in logged)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "--trainer.callbacks=lightning.pytorch.callbacks.LearningRateFinder",
            "the attribute `lr` of a module",
        ),
        ("--trainer.val_check_interval=100", "`val_check_interval` (100) must be less than or equal to the number of"),
        ("--trainer.accumulate_grad_batches=0", "accumulate_grad_batches: 0 found, at least 1 expected"),
        ("--trainer.limit_train_batches=2.5", "invalid value 2.5 for limit_train_batches"),
    ],
)
def test_options_that_lightning_cannot_honour_are_one_line(option, message, capsys):
    assert message in refused(capsys, "fit", write_config(), option)


def test_barebones_does_work():
    assert main(["fit", write_config([], barebones=True)]) == 0


class Broken(ModelCheckpoint):
    def on_train_epoch_end(self, trainer, pl_module):
        raise RuntimeError("a fault of the code")


def test_a_fault_of_the_code_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="a fault of the code"):
        main(["fit", write_config([("tests.cli.test_choices.Broken", {})])])


def test_everybody_s_monitor_is_logged_and_is_the_training_loss():
    """A batch that is the whole validation set: its loss by hand; the last layer's weights are those of the start."""
    monitor = [("lightning.pytorch.callbacks.EarlyStopping", {"monitor": "val/loss"})]
    words = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0", "--data.eval_batch_size=20"]
    done = lightning.main(["fit", write_config(monitor), *words])
    figures = done.trainer.callback_metrics
    assert figures["val/loss"].item() == pytest.approx(figures["val/nll"].item(), rel=1e-6)
    run = "lightning_logs/version_0"
    student = ["--model=kd_lightning.modules.DistillModule", "--model.teacher=kd_lightning.models.MLP"]
    student += ["--model.teacher.widths=[64,10]", f"--model.teacher_ckpt={run}", "--model.temperature=1", *words]
    student += ["--model.hard_weight=0.25", "--model.soft_weight=0.5", "--model.net.widths=[64,12,10]"]
    batches = []
    done = lightning.build(["fit", write_config(), *student])
    done.model.teacher.network.register_forward_hook(lambda *words: batches.append(len(words[-1])))
    done.trainer.fit(done.model, done.datamodule)
    figures = done.trainer.callback_metrics
    expected = 0.25 * figures["val/nll"] + 0.5 * figures["val/teacher_kl"]
    assert figures["val/loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    before = len(batches)
    (figures,) = done.trainer.test(done.model, done.datamodule, verbose=False)
    assert figures["test/loss"] == pytest.approx(
        0.25 * figures["test/nll"] + 0.5 * figures["test/teacher_kl"], rel=1e-5
    )
    assert [size for size in batches[before:] if size != 2] == [20] * (360 // 20)  # 2: blank images of the setup
    Path(run).rename("gone")
    done.model._teacher_parts = []
    (figures,) = done.trainer.test(done.model, done.datamodule, verbose=False)
    assert "test/nll" in figures
    assert "test/loss" not in figures


def images(root, classes):
    for part in ("train", "test"):
        for c in range(classes):
            (root / part / f"class_{c}").mkdir(parents=True)
            for i in range(3):
                Image.new("L", (28, 28), 80 * c + i).save(root / part / f"class_{c}" / f"{i}.png")
    return [
        "--data=kd_lightning.data.ImageFolderDataModule",
        f"--data.root={root}",
        "--data.image_size=28",
        "--data.grey=true",
        "--data.mean=[0.5]",
        "--data.std=[0.5]",
        "--data.batch_size=3",
    ]


def test_classes_that_the_user_gives_stand_and_others_are_the_data_s(tmp_path, capsys):
    small = {"class_path": "kd_lightning.models.CNN", "init_args": {"channels": [2], "hidden": []}}
    data = images(tmp_path / "images", 3)
    words = ["fit", write_config(net=small), "--data.val_size=0", "--data.train_size=null", *data]
    built = lightning.build(words)
    assert built.model.net.classifier.out_features == 3
    assert "has 10 classes, the data has 3" in refused(capsys, *words, "--model.net.num_classes=10")
    teacher = {**small, "init_args": {**small["init_args"], "num_classes": 10}}
    ensemble = {"class_path": "kd_lightning.teachers.EnsembleTeacher", "init_args": {"members": [teacher, small]}}
    for given, counts in ((teacher, [10]), (small, [3]), (ensemble, [10, 3])):
        Path("teacher.yaml").write_text(
            yaml.safe_dump(
                {
                    "model": {
                        "class_path": "kd_lightning.modules.DistillModule",
                        "init_args": {"net": small, "teacher": given, "teacher_ckpt": ["x"] * len(counts)},
                    }
                }
            )
        )
        made = lightning.build([*words, "--config=teacher.yaml"]).model.teacher.network
        assert [network.classifier.out_features for network in getattr(made, "members", [made])] == counts
    parsed = lightning.parse([*words, "--config=teacher.yaml"])["model"]["init_args"]
    assert "num_classes" not in parsed["net"]["init_args"]
    assert parsed["teacher"]["init_args"]["members"][0]["init_args"]["num_classes"] == 10


def test_a_config_from_a_pipe_is_read():
    content = Path(write_config().removeprefix("--config=")).read_bytes()
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    parsed = lightning.parse(["fit", "--config", f"/dev/fd/{reader}"])
    assert parsed["data"]["init_args"]["train_size"] == 64
    os.close(reader)


@pytest.mark.parametrize(
    ("words", "of_files"),
    [
        ("RUN image.png", True),
        ("--config c.yaml RUN image.png", True),
        ("RUN --config c.yaml image.png", True),
        ("RUN image.png --config=c.yaml", True),
        ("--config=c.yaml RUN image.png more.png", True),
        ("-- RUN image.png", True),
        ("--output p.csv RUN image.png", True),
        ("--output=p.csv", True),
        ("RUN", True),
        ("--config c.yaml", False),
        ("-c c.yaml --ckpt_path RUN", False),
        ("--config=c.yaml --ckpt_path=RUN --data.mean [0.5]", False),
        ("--config c.yaml --print_config", False),
        ("--print_config --config c.yaml", False),
        ("--model.optimizer.lr -1 --config c.yaml", False),
        ("", False),
        ("RUN image.png --option 1", True),
        ("--batch_size 2 -- RUN -image.png", True),
    ],
)
def test_predict_of_files_is_told_from_predict_of_a_run_by_a_word_that_is_no_option_s(words, of_files):
    assert predicts_images(words.split()) is of_files


def test_options_stand_anywhere_among_files():
    words = "--config c.yaml RUN a.png --output p.csv b.png --batch_size 3 c.png"
    options = predict_arguments().parse_intermixed_args(words.split())
    assert (str(options.model), [str(file) for file in options.images]) == ("RUN", ["a.png", "b.png", "c.png"])
    assert (str(options.config), str(options.output), options.batch_size) == ("c.yaml", "p.csv", 3)
    compared = compare_arguments().parse_intermixed_args(["a", "--format", "json", "b", "--output", "c", "d"])
    assert compared.what == ["a", "b", "d"]


def test_help_of_a_network_lists_this_project_s_networks_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "kd_lightning.DistillModule"])
    shown = " ".join(capsys.readouterr().out.split())
    listed = shown.partition("known subclasses: ")[2].partition(")")[0].split(", ")
    assert {"kd_lightning.MLP", "kd_lightning.SmallCNN"} <= {*listed[: len(models.__all__)]}
    assert not [path for path in listed if path.startswith(("torch.", "torchvision."))]
