import json
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.commands import processes, reproduce
from kd_lightning.reports.results import read_results
from kd_lightning.utils.stopping import Stopped
from tests.made import write_mnist

CONFIGS = Path(__file__).parents[2] / "configs"
SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2")


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def refused(capsys, *words):
    assert main(["reproduce", *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd-lightning:")]
    return line


def test_digits_are_the_default_and_the_report_holds_what_the_runs_measured(capsys):
    assert main(["reproduce", "--seeds", "2", *SHORT]) == 0
    out = capsys.readouterr().out
    assert "[8/11] digits: distill, seed 1" in out
    runs = Path("lightning_logs/digits")
    errors = [read_results(runs / "distill" / f"seed_{seed}")["test"]["errors"] for seed in (0, 1)]
    rows = {row["name"]: row for row in json.loads((runs / "comparison.json").read_text())["rows"]}
    assert rows["distill"]["errors"] == errors
    assert rows["teacher"]["reduction"] is None
    assert rows["distill"]["reduction"] == pytest.approx(1 - 2410 / 190_410, abs=1e-6)  # parameters
    measured = read_results(runs / "distill" / "seed_1")
    assert rows["distill"]["agreement"][1] == measured["test"]["agreement"]
    assert rows["distill"]["latency"]["batch_128"][1] == measured["latency"]["batch_128"]
    assert rows["distill"]["peak_mebibytes"][1] == measured["fit"]["peak_mebibytes"]
    assert sys.platform != "linux" or measured["fit"]["peak_mebibytes"] > 100  # MiB, with torch
    assert rows["baseline"]["agreement"] == []
    report = (runs / "report.html").read_text()
    assert f"<td>{sum(errors) / 2:.1f} ± " in report
    assert "kd-lightning reproduce --seeds 2" in report
    assert "distill: label (rows) and prediction (columns)" in report
    assert {file.name for file in runs.iterdir() if file.is_file()} == {"comparison.json", "report.html"}
    assert main(["compare", "lightning_logs/digits", "--format", "json"]) == 0
    assert {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]} == rows


def test_finished_runs_are_kept_until_an_option_changes_or_force_is_given(capsys):
    results = Path("lightning_logs/digits/baseline/seed_0/results.json")
    words = ["reproduce", "digits", "--stages", "baseline", "--seeds", "1"]
    assert main([*words, *SHORT]) == 0
    first = results.stat().st_mtime_ns
    assert main([*words, *SHORT]) == 0
    assert "finished before, kept" in capsys.readouterr().out
    assert results.stat().st_mtime_ns == first
    assert main([*words, *SHORT, "--data.batch_size=16"]) == 0
    second = results.stat().st_mtime_ns
    assert second != first
    assert main([*words, *SHORT, "--data.batch_size=16", "--force"]) == 0
    assert results.stat().st_mtime_ns != second


def test_seeds_left_over_from_a_call_with_other_options_do_not_count():
    words = ["reproduce", "digits", "--stages", "baseline", *SHORT]
    assert main([*words, "--seeds", "2"]) == 0
    assert main([*words, "--seeds", "1", "--data.batch_size=16"]) == 0
    (row,) = json.loads(Path("lightning_logs/digits/comparison.json").read_text())["rows"]
    assert row["errors"] == [read_results(Path("lightning_logs/digits/baseline/seed_0"))["test"]["errors"]]


@pytest.mark.slow
def test_a_retrained_teacher_retrains_its_students(capsys):
    words = ["reproduce", "digits", "--stages", "distill", "--seeds", "1", *SHORT]
    assert main(words) == 0
    assert "[1/2] digits: teacher" in capsys.readouterr().out
    assert main([*words, "--model.net.hidden_dropout=0.25"]) == 0
    assert "kept" not in capsys.readouterr().out


def flowers(count=6, parts=("train", "test")):
    """A recipe of two stages on made images, and the images."""
    for part in parts:
        for c, name in enumerate(("daisy", "rose")):
            folder = Path("flowers") / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (200 * c, 5 * i, 0)).save(folder / f"{i}.png")
    net = {"class_path": "kd_lightning.models.LightNN", "init_args": {"image_size": 8}}
    data = {
        "class_path": "kd_lightning.data.ImageFolderDataModule",
        "init_args": {"root": "flowers", "image_size": 8},
    }
    teacher = {"class_path": "kd_lightning.modules.TeacherModule", "init_args": {"net": net}}
    student = {"class_path": "kd_lightning.modules.DistillModule", "init_args": {"net": net, "teacher": net}}
    stages = {
        "teacher": {"seeds": 1, "config": {"model": teacher, "data": data}},
        "distill": {"teacher": "teacher", "config": {"model": student, "data": data}},
    }
    Path("flowers.yaml").write_text(yaml.safe_dump({"title": "Flowers", "seeds": 1, "stages": stages}, sort_keys=False))
    return ["reproduce", "flowers.yaml", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]


@pytest.mark.slow
def test_added_images_retrain_every_run(capsys):
    words = flowers()
    assert main([*words, "--seeds", "2"]) == 0
    assert main([*words, "--seeds", "2"]) == 0
    assert capsys.readouterr().out.count("kept") == 3
    flowers(count=7)
    assert main([*words, "--seeds", "1"]) == 0
    assert "kept" not in capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads(Path("lightning_logs/flowers/comparison.json").read_text())["rows"]}
    assert len(rows["distill"]["errors"]) == 1  # seed 1 was tested on fewer images, by another teacher's student
    assert rows["distill"]["images"] == 14


def test_missing_test_images_are_reported_before_training(capsys):
    assert "no test images in flowers" in refused(capsys, *flowers(parts=("train",))[1:])
    assert not Path("lightning_logs").exists()


def test_an_option_is_passed_to_the_stages_that_have_it(capsys):
    assert main(["reproduce", "--seeds", "1", *SHORT, "--model.temperature", "8", "--runs", "elsewhere"]) == 0
    config = Path("elsewhere/digits/distill/seed_0/config.yaml").read_text()
    assert "temperature: 8.0" in config
    assert "teacher_ckpt: elsewhere/digits/teacher/seed_0" in config


def test_a_data_config_replaces_that_of_the_recipe():
    Path("mine.yaml").write_text("class_path: kd_lightning.data.DigitsDataModule\ninit_args: {train_size: 77}\n")
    assert main(["reproduce", "--stages", "baseline", "--seeds", "1", *SHORT, "--data", "mine.yaml"]) == 0
    assert "train_size: 77" in Path("lightning_logs/digits/baseline/seed_0/config.yaml").read_text()


@pytest.mark.slow
def test_omitted_classes_are_reported_under_each_rule_by_name(tmp_path, capsys):
    root = write_mnist(tmp_path / "data")
    stages = "distill_without_3,distill_only_7_8"
    words = ["reproduce", "mnist_hinton", "--stages", stages, f"--data.root={root}", *SHORT]
    assert main(words) == 0
    rows = json.loads(Path("lightning_logs/mnist_hinton/comparison.json").read_text())["rows"]
    assert [row["name"].endswith(", bias by class frequency") for row in rows].count(True) == 2
    assert [row["name"].endswith(", bias chosen on the test set") for row in rows].count(True) == 2
    without_3 = read_results(Path("lightning_logs/mnist_hinton/distill_without_3/seed_0"))["bias_correction"]
    assert without_3["classes"] == ["3"]
    assert without_3["test_optimal"]["errors"] <= without_3["as_trained"]["errors"]
    only = read_results(Path("lightning_logs/mnist_hinton/distill_only_7_8/seed_0"))["bias_correction"]
    assert only["classes"] == ["7", "8"]
    assert only["test_optimal"]["bias"]["7"] == only["test_optimal"]["bias"]["8"]


def test_stages_on_several_processes_run_as_commands(monkeypatch):
    calls = []
    monkeypatch.setattr(reproduce, "run_process", lambda words, environment: calls.append(words) or 1)
    assert main(["reproduce", "--stages", "teacher", "--trainer.devices=2", "--trainer.accelerator=cpu"]) == 2
    assert calls[0][1:4] == ["-m", "kd_lightning", "fit"]
    assert "--trainer.devices=2" in calls[0]


@pytest.mark.parametrize("status", [0, 1, 143])
def test_run_process_returns_the_status_of_the_command(status):
    words = [sys.executable, "-c", f"raise SystemExit({status})"]
    if status == 143:  # which a signal has stopped
        with pytest.raises(Stopped):
            processes.run_process(words, {})
    else:
        assert processes.run_process(words, {}) == status


@pytest.mark.parametrize(
    ("devices", "several"),
    [
        *((devices, True) for devices in ("0,1", "0, 1", [0, 1], 2, "2", "auto", -1, "-1", None)),
        *((devices, False) for devices in ("1,", "0,", [0], 1, "1")),
    ],
)
def test_devices_are_read_as_lightning_reads_them(devices, several, monkeypatch):
    monkeypatch.setattr(processes.torch.cuda, "device_count", lambda: 2)
    trainer = {"devices": devices, "num_nodes": 1, "accelerator": "gpu"}
    assert processes.spawns_processes(trainer) == several
    assert processes.spawns_processes({**trainer, "num_nodes": 2})


@pytest.mark.parametrize(("command", "devices"), [("reproduce", "0,1"), ("fit", "0,"), ("fit", "[0]")])
def test_devices_missing_on_a_cpu_give_a_one_line_error(command, devices, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(reproduce, "run_process", lambda words, environment: calls.append(words) or 1)
    words = {"reproduce": ["digits", "--stages", "teacher"], "fit": ["--config", str(CONFIGS / "digits/teacher.yaml")]}
    assert main([command, *words[command], f"--trainer.devices={devices}", "--trainer.accelerator=cpu"]) == 2
    assert calls or f"trainer.devices: {devices} found (`devices` selected" in capsys.readouterr().err


def test_early_stopping_by_its_short_name_ends_a_stage():
    words = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    words += ["--trainer.callbacks.stopping_threshold=100", "--data.val_size=50", "--pictures=false"]
    assert main(["reproduce", "digits", "--stages=baseline", "--seeds=1", *words]) == 0
    assert read_results(Path("lightning_logs/digits/baseline/seed_0"))["fit"]["epochs"] == 1


CSV = "lightning.pytorch.loggers.CSVLogger"


def tables():
    found = Path("lightning_logs").rglob("csv/metrics.csv")
    return sorted(str(file.relative_to("lightning_logs/digits/baseline").parts[0]) for file in found)


@pytest.mark.parametrize("given", ["class", "list", "config"])
def test_loggers_of_the_user_write_inside_the_run_folder(given):
    words = ["reproduce", "digits", "--stages", "baseline", "--seeds", "2", "--pictures=false", *SHORT]
    logger = {"class_path": CSV, "init_args": {"save_dir": "elsewhere"}}
    if given == "class":
        words += [f"--trainer.logger={CSV}", "--trainer.logger.save_dir=elsewhere"]
    elif given == "list":
        words += [f"--trainer.logger={json.dumps([logger])}"]
    else:
        config = lightning.parse(["fit", f"--config={CONFIGS / 'digits/baseline.yaml'}"])
        config["trainer"]["logger"] = [config["trainer"]["logger"], logger]
        stages = {"baseline": {"config": config}}
        Path("digits").mkdir()
        Path("digits/recipe.yaml").write_text(yaml.safe_dump({"title": "Own", "stages": stages}))
        words[1] = str(Path("digits").absolute())
    assert main(words) == 0
    assert tables() == ["seed_0", "seed_1"]
    assert not Path("elsewhere").exists()
    for seed in (0, 1):
        run = Path(f"lightning_logs/digits/baseline/seed_{seed}")
        assert list(run.glob("events*"))
        assert {"fit", "test"} <= set(read_results(run))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mnist",), "digits, dogs_vs_cats, losses_cifar10, losses_mnist, mnist_chains, mnist_hinton, mnist_transfer"),
        (
            ("digits", "--stages", "student"),
            "--stages: student found, some of teacher, baseline, baseline_jittered, distill, ",
        ),
        (("digits", "--seeds", "0"), "--seeds: 0 found, at least 1 expected"),
        (("digits", "--seeds", "two"), "reproduce: argument --seeds: invalid int value: 'two'"),
        (("digits", "--model.nonsense=1"), "'nonsense' is not accepted"),
        (("digits", "--nonsense=1"), "nonsense"),
        (("digits", "--seed_everything=3"), "--seed_everything=3 found, but reproduce sets it for each run"),
        (("digits", "--data.train_size=5000"), "train_size: 5000 found"),
        (("digits", "--trainer.logger=false"), "trainer.logger false found, a logger expected: it sets the run folder"),
        (("digits", "--trainer.logger.version=3"), "--trainer.logger.version=3 found, but reproduce sets it for each"),
        (("digits", "--overwrite=true"), "--overwrite=true found, but reproduce sets it for each run"),
        (
            ("digits", "--trainer.devices=two"),
            "trainer.devices: two found, a number, a list of numbers or auto expected",
        ),
        (("digits", "more"), "reproduce: more found, an option (--name value) expected"),
        (("mnist_transfer", "--data.root=nowhere"), "nowhere/MNIST/raw"),
    ],
)
def test_a_mistake_is_one_line(words, message, capsys, monkeypatch):
    from torchvision.datasets import mnist

    def unreachable(*args, **kwargs):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(mnist, "download_and_extract_archive", unreachable)
    assert message in refused(capsys, *words)
    assert not list(Path("lightning_logs").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [", "not a recipe"),
        ("title: x\nsource: y\nmetric: luck\nseeds: 1\nstages: {a: {config: a.yaml}}", "metric luck found"),
        (
            "title: x\nsource: y\nmetric: errors\nseeds: 1\nstages: {a: {config: a.yaml, teacher: b}}",
            "teacher b of a found, an earlier stage expected",
        ),
    ],
)
def test_an_invalid_recipe_file_is_named(text, message, capsys):
    Path("mine").mkdir()
    Path("mine/recipe.yaml").write_text(text)
    line = refused(capsys, "mine")
    assert message in line
    assert "mine/recipe.yaml" in line
