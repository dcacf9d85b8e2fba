"""Settings that `reproduce` chooses on validation images, before the test images are seen."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from kd_lightning.__main__ import main
from kd_lightning.commands import tries
from kd_lightning.modules import ClassifierModule
from kd_lightning.recipe import find_recipe
from kd_lightning.reports.results import read_results, update_results

DATA = {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": {"train_size": 100, "batch_size": 50}}
NET = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 8, 10]}}
CONFIG = {
    "model": {"class_path": "kd_lightning.modules.TeacherModule", "init_args": {"net": NET}},
    "data": DATA,
    "trainer": {"max_epochs": 2},
    "pictures": False,
}
SETTINGS = [{"model.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": rate}}} for rate in (0.0, 0.5)]
STAGE = Path("lightning_logs/mine/tuned")


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def write_recipe(**about: Any) -> list[str]:
    """A recipe of one stage with two tries, the second of which learns something."""
    recipe = {
        "title": "Mine",
        "seeds": 1,
        "try_options": {"data.val_size": 200},
        "stages": {"tuned": {"config": CONFIG, "tries": SETTINGS}},
        **about,
    }
    Path("mine.yaml").write_text(yaml.safe_dump(recipe))
    return ["reproduce", "mine.yaml"]


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    assert main(words) == 2
    assert not list(Path().rglob("*.ckpt"))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd-lightning:")]
    return line


def test_the_best_on_validation_images_is_run_and_no_try_is_tested(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tested: list[str] = []
    start = ClassifierModule.on_test_epoch_start

    def note(module: ClassifierModule) -> None:
        tested.append(module.trainer.loggers[0].log_dir or "")
        start(module)

    monkeypatch.setattr(ClassifierModule, "on_test_epoch_start", note)
    words = write_recipe()
    assert main(words) == 0
    assert "tuned: try 2 of 2 chosen (model.optimizer: " in capsys.readouterr().out
    assert tested == [str(STAGE / "seed_0")]
    record = json.loads((STAGE / "tries.json").read_text())
    assert (record["chosen"], record["setting"]) == (2, SETTINGS[1])
    runs = [read_results(STAGE / "tries" / f"try_{number}") for number in (1, 2)]
    assert [one["setting"] for one in record["tries"]] == SETTINGS
    assert [one["val"] for one in record["tries"]] == [run["val"] for run in runs]
    assert runs[0]["val"]["accuracy"] < runs[1]["val"]["accuracy"]
    assert [run["config"]["data"]["init_args"]["val_size"] for run in runs] == [200, 200]
    assert ["test" in run for run in runs] == [False, False]
    final = read_results(STAGE / "seed_0")
    assert final["config"]["data"]["init_args"]["val_size"] == 0
    assert final["config"]["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.5
    # Finished tries are kept, and one whose figures are gone is validated again.
    update_results(STAGE / "tries" / "try_1", val=None)
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "[1/3] mine: tuned, try 1: trained before, validated again" in lines[0]
    assert [f"[{number}/3]" in line and "kept" in line for number, line in ((2, lines[2]), (3, lines[4]))] == [True] * 2
    assert read_results(STAGE / "tries" / "try_1")["val"] == runs[0]["val"]
    # They are no runs to compare.
    assert main(["compare", "mine.yaml"]) == 0
    assert "left out" not in capsys.readouterr().err


@pytest.mark.slow
def test_losses_are_compared_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[2]
    Path("configs").symlink_to(root / "configs")
    (text,) = re.findall(r"```yaml\n(# losses.yaml.*?)```", (root / "docs/compare.md").read_text(), re.S)
    Path("losses.yaml").write_text(text)
    short = ["--seeds=2", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--pictures=false"]
    assert main(["reproduce", "losses.yaml", *short]) == 0
    out = capsys.readouterr().out
    assert "kd_tuned: try" in out
    record = json.loads(Path("lightning_logs/losses/kd_tuned/tries.json").read_text())
    rows = {row["name"]: row for row in json.loads(Path("lightning_logs/losses/comparison.json").read_text())["rows"]}
    pairs = [(name, each["control"]) for name, row in rows.items() for each in row.get("differences", [])]
    assert pairs == [("kd", "baseline"), ("kd_tuned", "kd"), ("kd_tuned", "baseline")]
    assert [one["setting"] for one in record["tries"]] == yaml.safe_load(text)["stages"]["kd_tuned"]["tries"]


def test_an_interrupted_try_is_resumed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = write_recipe(stages={"tuned": {"config": CONFIG, "tries": SETTINGS[:1]}})

    def stop(module: ClassifierModule) -> None:
        if module.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierModule, "on_train_epoch_start", stop, raising=False)
        assert main(words) == 130
    capsys.readouterr()
    assert main(words) == 0
    assert "mine: tuned, try 1: interrupted before, resumed" in capsys.readouterr().out
    assert read_results(STAGE / "tries" / "try_1")["fit"]["epochs"] == 2


def test_a_variant_of_a_stage_file_has_tries_beside_the_stage_itself() -> None:
    folder = Path("configs/mine")
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("{title: Mine, controls: [kd], try_options: {data.val_size: 10}}")
    (folder / "kd.yaml").write_text("{}")
    variants = {"dkd_tuned": {"main": True, "model.hard_weight": 0.5, "tries": SETTINGS}}
    (folder / "dkd.yaml").write_text(yaml.safe_dump({"stage": {"seeds": 2, "variants": variants}}))
    recipe = find_recipe("mine")
    assert [stage.name for stage in recipe.choose(None)] == ["dkd", "dkd_tuned", "kd"]
    assert recipe.stages["dkd"].tries == []
    assert recipe.stages["dkd_tuned"].tries == SETTINGS
    assert recipe.stages["dkd_tuned"].options == {"model.hard_weight": 0.5}


def test_ties_are_decided_by_the_likelihood() -> None:
    folders = [Path(name) for name in "abcd"]
    for folder, accuracy, nll in zip(folders, (0.5, 0.7, 0.7, 0.7), (0.1, 0.9, 0.4, 0.4), strict=True):
        folder.mkdir()
        update_results(folder, val={"accuracy": accuracy, "nll": nll})
    update_results(folders[0], val={"diverged": "training: loss is not finite"})
    assert tries.choose("a", folders) == 2


def test_a_chosen_setting_that_another_stage_has_is_not_trained_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = {"config": CONFIG, "tries": [{}, SETTINGS[0]]}
    words = write_recipe(stages={"plain": {"config": CONFIG}, "tuned": tuned}, seeds=2)
    fitted: list[int] = []
    epoch = ClassifierModule.on_train_epoch_end
    monkeypatch.setattr(ClassifierModule, "on_train_epoch_end", lambda self: (fitted.append(1), epoch(self))[1])
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "tuned: try 1 of 2 chosen (no further option)" in out
    assert "tuned, seed 1: the training of lightning_logs/mine/plain/seed_1, whose options are the same" in out
    assert len(fitted) == 2 * 4  # epochs of two runs and two tries
    plain, other = (read_results(Path(f"lightning_logs/mine/{stage}/seed_1")) for stage in ("plain", "tuned"))
    assert plain["test"] == other["test"]
    assert other["fit"]["weights"] == plain["fit"]["weights"]
    config = yaml.safe_load(Path("lightning_logs/mine/tuned/seed_1/config.yaml").read_text())
    assert config["trainer"]["logger"]["init_args"]["name"] == "mine/tuned"
    assert other["config"] == config
    assert main(words) == 0
    assert capsys.readouterr().out.count("finished before, kept") == 6
    assert main(["compare", "--verify", "lightning_logs/mine/comparison.json"]) == 2  # outside of a repository
    assert "other options" not in capsys.readouterr().out


def test_a_setting_that_diverges_is_not_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    diverging = {"model.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}}}
    words = write_recipe(stages={"tuned": {"config": CONFIG, "tries": [diverging, SETTINGS[1]]}})
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "    diverged: training: " in out
    assert "tuned: try 2 of 2 chosen" in out
    record = json.loads((STAGE / "tries.json").read_text())
    assert "is not finite" in record["tries"][0]["val"]["diverged"]
    assert main(words) == 0
    assert "tuned, try 1: finished before, kept" in capsys.readouterr().out
    assert main(write_recipe(stages={"tuned": {"config": CONFIG, "tries": [diverging]}})) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("kd-lightning: error: tries of tuned: all have diverged (training: ")


@pytest.mark.parametrize(
    ("about", "words", "message"),
    [
        ({"try_options": {}}, [], "tries of tuned: no validation images found; hold some out of the training set"),
        ({}, ["--data.val_size=0"], "tries of tuned: no validation images found"),
        ({}, ["--model.optimizer=torch.optim.SGD"], "--model.optimizer: found, but the tries of tuned set it"),
        ({}, ["--model.optimizer.init_args.lr", "2"], "--model.optimizer.lr: found, but the tries of tuned set it"),
        (
            {"stages": {"tuned": {"config": CONFIG, "tries": [{"seed_everything": 1}]}}},
            [],
            "tries of tuned: seed_everything found, but reproduce sets it for each run",
        ),
        (
            {"stages": {"tuned": {"config": CONFIG, "tries": [{}, {"data.split_seed": 1}]}}},
            [],
            "tries of tuned: validation images that differ from try to try found, the same expected",
        ),
        (
            {"stages": {"tuned": {"config": CONFIG, "tries": {"model.hard_weight": [1, 2]}}}},
            [],
            "mine.yaml: tries of tuned: {'model.hard_weight': [1, 2]} found, a list of settings",
        ),
        ({"stages": {"tuned": {"config": CONFIG, "tries": [{"model.nonsense": 1}]}}}, [], "nonsense"),
        ({"try_options": {"data.val_size": 200, "model.temperature": 2}}, [], "'temperature' is not accepted"),
        ({"controls": ["kd"]}, [], "mine.yaml: controls: ['kd'] found, a list of tuned expected"),
    ],
)
def test_a_mistake_is_one_line(
    about: dict[str, Any], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, [*write_recipe(**about), *words])


def test_validation_images_that_are_the_test_images_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "val"):  # no test part: a test measures val/
        for name in ("daisy", "rose"):
            folder = Path("flowers", part, name)
            folder.mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), (90 * i, len(name), len(part))).save(folder / f"{i}.png")
    options: dict[str, Any] = {"root": "flowers", "image_size": 8}
    data = {"class_path": "kd_lightning.data.ImageFolderDataModule", "init_args": options}
    net = {"class_path": "kd_lightning.models.LightNN", "init_args": {"image_size": 8}}
    model = {"class_path": "kd_lightning.modules.TeacherModule", "init_args": {"net": net}}
    stage = {"config": {**CONFIG, "model": model, "data": data}, "tries": SETTINGS}
    words = write_recipe(stages={"tuned": stage}, try_options={})
    assert "tries of tuned: the validation images are the test images, and settings are" in refused(capsys, words)
    options["val_size"] = 2  # of the training images; val/ is tested
    assert tries.validation_digest(data, find_recipe("mine.yaml").stages["tuned"])
