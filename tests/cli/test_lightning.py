"""The user's door: the console command, by the words a user types."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kd_lightning.__main__ import COMMANDS, main
from kd_lightning.cli import lightning
from kd_lightning.models import MLP
from kd_lightning.reports.results import PARTS

CONFIGS = Path(__file__).parents[2] / "configs"
TEACHER = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 20, 10]}}
PICTURES = {"confusion", "errors", "mistakes", "reliability"}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def write_config(name="teacher", module="TeacherModule", **init_args):
    logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "logs", "name": name, "version": "seed_0"},
    }
    config = {
        "seed_everything": 0,
        "threads": 1,
        "model": {"class_path": f"kd_lightning.modules.{module}", "init_args": {"net": TEACHER, **init_args}},
        "data": {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": {"train_size": 200}},
        "trainer": {"max_epochs": 1, "logger": logger, "enable_model_summary": False},
    }
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump(config))
    return str(path)


def distill_config(**init_args):
    options = {"teacher": TEACHER, "teacher_ckpt": "logs/teacher/seed_0", **init_args}
    return write_config("distill", "DistillModule", **options)


def said(capsys):
    """The one line on standard error."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd-lightning:")]
    assert len(lines) == 1
    return lines[0]


def refused(capsys, *words):
    """Run a command that must fail as a user's mistake does; the line that it says."""
    assert main(list(words)) == 2
    return said(capsys)


def test_fit_test_and_predict_leave_their_files_in_the_run_folder():
    config = write_config()
    assert main(["fit", "--config", config]) == 0
    assert main(["test", "--config", config]) == 0
    assert main(["predict", "--config", config]) == 0
    run = Path("logs/teacher/seed_0")
    results = json.loads((run / "results.json").read_text())
    assert results["test"]["images"] == 360
    assert results["test"]["errors"] + results["test"]["right"] == 360
    assert results["test"]["accuracy"] == pytest.approx(results["test"]["right"] / 360, abs=1e-6)
    assert results["network"] == {
        "name": "MLP",
        "parameters": 64 * 20 + 20 + 20 * 10 + 10,
        "mebibytes": 1510 * 4 / 2**20,
    }
    assert results["fit"]["epochs"] == 1
    for picture in PICTURES:
        assert (run / f"{picture}.png").stat().st_size > 1000
    rows = (run / "predictions.csv").read_text().splitlines()
    assert rows[0] == "index,class,probability"
    assert [row.split(",")[0] for row in rows[1:]] == [str(i) for i in range(360)]
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 1


def test_tensorboard_gets_curves_under_the_same_tags_and_the_pictures():
    config = write_config()
    assert main(["fit", "--config", config, "--data.val_size=100"]) == 0
    assert main(["test", "--config", config]) == 0
    events = [EventAccumulator(str(file)).Reload() for file in Path("logs/teacher/seed_0").glob("events*")]
    scalars = {tag for event in events for tag in event.Tags()["scalars"]}
    assert {"train/loss", "train/accuracy", "val/accuracy", "val/nll", "test/errors", "test/nll"} <= scalars
    assert {tag for event in events for tag in event.Tags()["images"]} == {f"test/{name}" for name in PICTURES}


def test_a_student_starts_from_the_baseline_s_weights_and_keeps_no_teacher(monkeypatch):
    starts = {}
    assert main(["fit", "--config", write_config()]) == 0
    for config in (write_config("baseline"), distill_config()):
        fitted = lightning.main(["fit", "--config", config, "--trainer.max_epochs=0"])
        starts[config] = fitted.model.net.state_dict()
    baseline, student = starts.values()
    assert all(torch.equal(baseline[name], student[name]) for name in baseline)
    assert main(["fit", "--config", "distill.yaml"]) == 0
    saved = torch.load("logs/distill/seed_0/checkpoints/last.ckpt", weights_only=True)
    assert set(saved["state_dict"]) == {f"net.{name}" for name in baseline}


def test_a_student_is_tested_with_its_teacher_gone(recwarn):
    assert main(["fit", "--config", write_config()]) == 0
    assert main(["fit", "--config", distill_config()]) == 0
    run = Path("logs/distill/seed_0/results.json")
    assert main(["test", "--config", "distill.yaml"]) == 0
    assert "agreement" in json.loads(run.read_text())["test"]
    Path("logs/teacher").rename("elsewhere")
    assert main(["test", "--config", "distill.yaml"]) == 0
    assert "agreement" not in json.loads(run.read_text())["test"]
    assert any("agreement with the teacher is not reported" in str(w.message) for w in recwarn)


def test_the_best_checkpoint_is_kept_where_there_is_validation_and_none_is_stale():
    config = write_config()
    best = Path("logs/teacher/seed_0/checkpoints/best.ckpt")
    assert main(["fit", "--config", config, "--data.val_size=100"]) == 0
    assert best.is_file()
    assert main(["fit", "--config", config]) == 0
    assert not best.exists()
    assert [file.name for file in best.parent.iterdir()] == ["last.ckpt"]
    assert len(list(best.parents[1].glob("events*"))) == 1


def test_a_run_without_a_folder_of_its_own_leaves_the_user_s_files_alone():
    config = write_config()
    assert main(["fit", "--config", config]) == 0
    theirs = [Path(name) for name in ("holiday.png", "errors.png", "checkpoints/best.ckpt", "events.out.tfevents.1")]
    for file in (*theirs, Path("events.out.tfevents.2")):
        file.parent.mkdir(exist_ok=True)
        file.write_text("theirs")
    before = sorted(Path().rglob("*"))
    assert main(["fit", "--config", config, "--trainer.fast_dev_run=true"]) == 0
    assert main(["test", "--config", config, "--trainer.fast_dev_run=true"]) == 0
    assert main(["predict", "--config", config, "--trainer.fast_dev_run=true"]) == 0
    assert sorted(Path().rglob("*")) == before
    for content in ("[1, 2]", '{"mine": 1}'):
        Path("results.json").write_text(content)
        assert main(["fit", "--config", config, "--trainer.logger=false"]) == 0
        assert Path("results.json").read_text() == content
    assert {file.read_text() for file in theirs} == {"theirs"}


def test_a_run_without_a_logger_writes_its_config_over_its_own_alone():
    words = ["fit", "--config", str(Path(write_config()).rename("mine.yaml")), "--trainer.logger=false"]
    Path("config.yaml").write_text("theirs: 1")
    assert main(words) == 0
    assert Path("config.yaml").read_text() == "theirs: 1"
    Path("config.yaml").unlink()
    assert main(words) == 0
    assert main([*words, "--trainer.max_epochs=2"]) == 0
    assert yaml.safe_load(Path("config.yaml").read_text())["trainer"]["max_epochs"] == 2


def test_a_run_without_a_logger_starts_its_figures_anew():
    words = ["--config", write_config(), "--trainer.logger=false"]
    for command in (["fit"], ["test", "--ckpt_path=."], ["fit"]):
        assert main([*command, *words]) == 0
        results = json.loads(Path("results.json").read_text())
        assert ("test" in results, "fit" in results) == ("test" in command, True)


def test_a_new_fit_clears_its_own_pictures_alone():
    config, run = write_config(), Path("logs/teacher/seed_0")
    run.mkdir(parents=True)
    for name in ("holiday", *PICTURES):
        (run / f"{name}.png").touch()
    assert main(["fit", "--config", config]) == 0
    assert [file.name for file in run.glob("*.png")] == ["holiday.png"]


def test_the_images_of_a_test_are_those_that_were_measured():
    config = write_config()
    assert main(["fit", "--config", config]) == 0
    words = ["--data.eval_batch_size=50", "--trainer.limit_test_batches=2"]
    assert main(["test", "--config", config, *words]) == 0
    results = json.loads(Path("logs/teacher/seed_0/results.json").read_text())
    counts, test = torch.tensor(results["confusion"]), results["test"]
    assert (test["images"], test["right"]) == (100, counts.trace())
    assert test["right"] + test["errors"] == 100
    assert test["accuracy"] == pytest.approx(test["right"] / 100, abs=1e-6)


def test_bfloat16_weights_have_their_errors_counted_one_by_one():
    words = ["--config", write_config(), "--trainer.precision=bf16-true", "--data.eval_batch_size=1"]
    assert main(["fit", *words, "--trainer.limit_train_batches=1"]) == 0
    assert main(["test", *words]) == 0
    results = json.loads(Path("logs/teacher/seed_0/results.json").read_text())
    counts = torch.tensor(results["confusion"])
    assert results["test"]["errors"] == counts.sum() - counts.trace() > 256
    assert results["test"]["accuracy"] == pytest.approx(results["test"]["right"] / 360, abs=1e-6)


def test_configs_in_a_row_and_options_override_what_came_before(capsys):
    config = write_config()
    Path("more.yaml").write_text("trainer: {max_epochs: 7}\ndata: {init_args: {batch_size: 16}}\n")
    options = lightning.parse(["fit", "--config", config, "--config", "more.yaml", "--data.train_size=50"])
    assert options["trainer"]["max_epochs"] == 7
    assert (options["data"]["init_args"]["batch_size"], options["data"]["init_args"]["train_size"]) == (16, 50)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", config, "--print_config"])
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["train_size"] == 200


def test_resuming_from_last_takes_up_where_training_ended():
    config = write_config()
    assert main(["fit", "--config", config]) == 0
    resumed = lightning.main(["fit", "--config", config, "--trainer.max_epochs=3", "--ckpt_path=logs/teacher/seed_0"])
    assert resumed.trainer.current_epoch == 3
    assert resumed.trainer.global_step == 3 * 2


def test_training_stops_at_a_loss_that_is_no_number_and_keeps_the_last_good_checkpoint(capsys):
    config = write_config()
    assert main(["fit", "--config", config]) == 0
    last = Path("logs/teacher/seed_0/checkpoints/last.ckpt")
    good = last.read_bytes()
    line = refused(capsys, "fit", "--config", config, "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=1e38")
    assert "training: loss is not finite in batch 2" in line
    assert "of epoch 0, a finite number expected; the last good checkpoint is kept" in line
    assert last.read_bytes() == good


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.train_size=2000", "train_size: 2000 found, 1 to 1437 expected"),
        ("--data.omit_classes=[0,1,2,3,4,5,6,7,8,9]", "leave no image"),
        ("--data.omit_classes=[11]", "[11] found, classes 0 to 9 expected"),
        ("--data.val_size=9999", "val_size: 9999 found, 0 to 1436 expected"),
        ("--data.nonsense=1", "'nonsense' is not accepted"),
        ("--nonsense=1", "nonsense"),
        ("--trainer.max_epochs=many", "trainer.max_epochs"),
        ("--config=absent.yaml", "absent.yaml"),
        ("--model.net.widths=[64,20,7]", "has 7 classes, the data has 10"),
        ("--model.net.widths=[63,20,10]", "cannot read images of 1x8x8"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(option, message, capsys):
    line = refused(capsys, "fit", "--config", write_config(), option)
    assert message in line
    assert not list(Path("logs").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.temperature=0", "temperature: 0.0 found, a number above 0 expected"),
        ("--model.hard_weight=-1", "hard_weight: -1.0 found, a number of at least 0 expected"),
        ("--model.soft_weight=.nan", "soft_weight: nan found"),
        ("--model.teacher_ckpt=nowhere", "no file or run folder nowhere"),
        ("--model.teacher_ckpt=empty", "empty has no checkpoints/best.ckpt or checkpoints/last.ckpt"),
        ("--model.teacher_ckpt=cut.ckpt", "cut.ckpt cannot be read"),
        ("--model.teacher_ckpt=text.pt", "text.pt is not a checkpoint"),
        ("--model.teacher_ckpt=module.pt", "torch.save(network.state_dict(), 'weights.pt')"),
        ("--model.teacher.widths=[64,30,10]", "linear1.weight is 20x64 in the file and 30x64 in the network"),
    ],
)
def test_a_teacher_that_will_not_do_is_named_in_one_line(option, message, capsys):
    assert main(["fit", "--config", write_config()]) == 0
    Path("empty").mkdir()
    whole = Path("logs/teacher/seed_0/checkpoints/last.ckpt").read_bytes()
    Path("cut.ckpt").write_bytes(whole[: len(whole) // 2])
    Path("text.pt").write_text("no weights here")
    torch.save(MLP([64, 20, 10]), "module.pt")
    assert message in refused(capsys, "fit", "--config", distill_config(), option)
    assert not Path("logs/distill/seed_0/checkpoints").exists()


def test_weights_that_are_all_zero_are_refused(capsys):
    words = ("fit", "--config", distill_config(hard_weight=0.0, soft_weight=0.0))
    assert "all 0 found" in refused(capsys, *words)


def test_a_teacher_of_other_classes_is_refused_with_both_numbers(capsys):
    other = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 5]}}
    torch.save(MLP([64, 5]).state_dict(), "five.pt")
    config = distill_config(teacher=other, teacher_ckpt="five.pt")
    assert "teacher: MLP has 5 classes, the data has 10" in refused(capsys, "fit", "--config", config)


def test_evaluation_without_a_checkpoint_is_refused(capsys):
    config = write_config()
    assert "logs/teacher/seed_0; train it first" in refused(capsys, "test", "--config", config)
    assert "ckpt_path: none found" in refused(capsys, "test", "--config", config, "--trainer.logger=false")


@pytest.mark.parametrize(
    ("file", "option", "message"),
    [
        ("cut.ckpt", "--data.batch_size=32", "ckpt_path: cut.ckpt cannot be read"),
        ("empty.ckpt", "--data.batch_size=32", "ckpt_path: empty.ckpt is empty (0 bytes)"),
        ("logs/teacher/seed_0", "--model.net.widths=[64,30,10]", "20x64 in the file and 30x64 in the network"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_that_will_not_do_is_named_in_one_line(command, file, option, message, capsys):
    config = write_config()
    assert main(["fit", "--config", config]) == 0
    last = Path("logs/teacher/seed_0/checkpoints/last.ckpt")
    good = last.read_bytes()
    Path("cut.ckpt").write_bytes(good[: len(good) // 2])
    Path("empty.ckpt").touch()
    assert message in refused(capsys, command, "--config", config, option, f"--ckpt_path={file}")
    assert last.read_bytes() == good


def test_a_config_that_is_named_is_not_written_over():
    config = Path(write_config())
    kept = config.rename("config.yaml").read_text()
    for options in ([], ["--ckpt_path=checkpoints/last.ckpt", "--trainer.max_epochs=3"]):
        words = ["--trainer.logger=false", "--trainer.default_root_dir=.", *options]
        assert main(["fit", "--config=config.yaml", *words]) == 0
        assert Path("config.yaml").read_text() == kept


def test_a_checkpoint_with_a_payload_is_refused_and_nothing_in_it_runs(capsys):
    class Payload:
        def __reduce__(self):
            return (Path("ran").touch, ())

    with Path("payload.pt").open("wb") as file:
        pickle.dump({"state_dict": Payload()}, file)
    line = refused(capsys, "fit", "--config", distill_config(teacher_ckpt="payload.pt"))
    assert "payload.pt" in line
    assert not Path("ran").exists()


def test_unknown_commands_are_refused_with_the_known_ones(capsys):
    assert f"distil found, one of {', '.join(COMMANDS)} expected" in refused(capsys, "distil")


def test_help_and_version_need_no_torch():
    program = "import sys; from kd_lightning.__main__ import main; main(['--help']); main(['--version']); "
    program += "sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "usage: kd-lightning" in done.stdout
    assert "kd-lightning 0.1.0" in done.stdout


def test_an_interruption_outside_of_training_is_one_line(monkeypatch, capsys):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(lightning, "main", interrupted)
    assert main(["fit"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "kd-lightning: interrupted"


def test_one_callback_may_be_named_without_a_list():
    trained = lightning.main(
        ["fit", "--config", write_config(), "--trainer.callbacks=lightning.pytorch.callbacks.RichModelSummary"]
    )
    names = [type(callback).__name__ for callback in trained.trainer.callbacks]
    assert names.count("RichModelSummary") == 1
    assert {"BestCheckpoint", "LastCheckpoint"} <= set(names)


@pytest.mark.parametrize("words", [["fit", "--trainer.max_epoch=1"], ["reproduce", "digits", "--seed=1"]])
def test_an_option_is_named_in_full(words, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    config = [f"--config={Path('configs', 'digits', 'baseline.yaml')}"] if words[0] == "fit" else []
    assert words[-1].partition("=")[0] in refused(capsys, *words, *config)


def test_a_run_that_is_replaced_is_named_and_what_its_network_said_is_gone(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    config = [f"--config={CONFIGS / 'digits' / 'baseline.yaml'}", "--trainer.max_epochs=1"]
    run = Path("lightning_logs/digits/baseline/seed_0")
    assert main(["fit", *config]) == main(["test", *config]) == main(["predict", *config]) == 0
    assert main(["export", str(run), "--format=torch"]) == 0
    assert set(json.loads((run / "results.json").read_text())) <= PARTS  # or `record` would take them for another's
    left = {run / "predictions.csv", run / "export" / "model.pt2"}
    assert all(file.is_file() for file in left)
    (run / "export" / "notes.txt").write_text("mine")
    with caplog.at_level("INFO", "lightning.pytorch"):
        assert main(["fit", *config]) == 0
    assert f"{run}: the run that was trained and tested there is replaced" in caplog.text
    assert not any(file.exists() for file in left)
    assert (run / "export" / "notes.txt").is_file()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    config = f"--config={CONFIGS / 'digits' / 'baseline.yaml'}"
    assert "file" in refused(capsys, "fit", config, "--trainer.max_epochs=1", "--trainer.logger.save_dir=file")
    monkeypatch.chdir(CONFIGS.parent)
    assert "file" in refused(capsys, "reproduce", "digits", "--seeds=1", f"--runs={tmp_path / 'file'}")
