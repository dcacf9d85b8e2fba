"""All recipes of configs/, run on small generated data. New files are found and tested."""

import inspect
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from kd_lightning.cli import lightning
from kd_lightning.commands.plan import planned_words
from kd_lightning.models import CifarResNet
from kd_lightning.modules import TeacherModule
from kd_lightning.recipe import COMMON_FILE, RECIPE_FILE, find_recipe
from tests.made import write_cifar10, write_cifar100, write_dogs_vs_cats, write_mnist

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(file.parent.name for file in CONFIGS.glob("*/recipe.yaml"))
DATA = sorted(str(file.relative_to(CONFIGS)) for file in CONFIGS.glob("*/data*.yaml"))
OTHERS = {*DATA, *(f"{recipe}/{name}" for recipe in RECIPES for name in (RECIPE_FILE, COMMON_FILE))}
STAGES = sorted({str(file.relative_to(CONFIGS)) for file in CONFIGS.glob("*/*.yaml")} - OTHERS)
RUNS = [f"{recipe}/{stage}" for recipe in RECIPES for stage in find_recipe(recipe, CONFIGS).stages]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a small generated copy of each dataset."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kd_lightning.callbacks.setting.BATCH_SIZES", (1,))  # 128 photographs are seconds of DenseNet
        folder = tmp_path_factory.mktemp("data")
        write_mnist(folder)
        write_cifar10(folder, patch)
        write_cifar100(folder, patch)
        write_dogs_vs_cats(folder)
        yield folder


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """A function that trains a teacher stage at the first call, after its own teachers, and copies its run."""
    folder = tmp_path_factory.mktemp("teachers")

    def copy(recipe, name, seed, into):
        run, stage = folder / "lightning_logs" / recipe.name / name / "seed_0", recipe.stages[name]
        if not run.exists():
            for teacher, last in stage.taught_by.items():
                copy(recipe, teacher, last, folder)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                lightning.main(["fit", *words_of(recipe, stage, root), f"--trainer.logger.name={recipe.name}/{name}"])
        for number in range(seed + 1):
            place = into / run.relative_to(folder).with_name(f"seed_{number}")
            if place != run:
                shutil.copytree(run, place, dirs_exist_ok=True)

    return copy


def words_of(recipe, stage, root):
    """Options of `fit` that shorten a stage, and name its teachers' runs."""
    config = f"{recipe.name}/{stage.config.name}"
    teachers = stage.teacher_words(Path("lightning_logs", recipe.name)) if stage.options else []
    return [*small(config, root), *stage.option_words, *teachers]


def small(config, root):
    """Options that shorten a stage and keep its networks, losses, views and optimizers."""
    words = [f"--config={CONFIGS / config}", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    if not config.startswith("digits"):
        words += [f"--data.root={root}", "--data.train_size=null"]
    if not config.startswith(("digits", "mnist")):
        words.append("--data.batch_size=8")
    net = lightning.parse(["fit", words[0]])["model"]["init_args"]["net"]
    if net["init_args"].get("weights") == "DEFAULT":  # no test downloads anything
        words.append("--model.net.weights=null")
    if config.startswith(("cifar10_densenet", "dogs_vs_cats")):  # a quarter of the pixels: seconds of DenseNet
        words.append("--data.image_size=64")
        words += ["--model.net.image_size=64"] if net["class_path"].endswith("SmallCNN") else []
    return words


def slow_if_large(run):
    """Mark large networks as slow, but for one DenseNet, one VGG and a ResNet-18 taught by the DenseNet."""
    recipe, stage = run.split("/")
    large = recipe == "dogs_vs_cats" or (recipe == "cifar10_vgg" and stage != "teacher")
    again = recipe == "cifar10_densenet" and stage not in ("teacher", "distill_resnet18")
    again |= stage.startswith("distill_30_units_T") and stage != "distill_30_units_T4"
    again |= recipe == "cifar10_tutorial" and "improved" in stage
    again |= recipe == "cifar100" and stage != "resnet20_baseline"
    again |= recipe == "mnist_chains" and stage != "distill_ensemble"
    again |= recipe.startswith("losses_") and stage != "dkd"
    return pytest.param(run, marks=pytest.mark.slow) if large or again else run


@pytest.mark.parametrize("run", [slow_if_large(run) for run in RUNS])
def test_every_stage_fits_and_tests(run, root, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    recipe = find_recipe(run.split("/")[0], CONFIGS)
    stage = recipe.stages[run.split("/")[1]]
    config = f"{recipe.name}/{stage.config.name}"
    words = words_of(recipe, stage, root)
    for teacher, seed in stage.taught_by.items():  # in the folders of the student's `teacher_ckpt`
        trained(recipe, teacher, seed, tmp_path)
    if recipe.name == "losses_cifar10":
        torch.save(CifarResNet(56, shortcut="pad").state_dict(), "resnet56-4bfd9763.th")
    lightning.main(["fit", *words])
    pictures = stage is next(iter(recipe.stages.values()))  # they take longer than the rest of the test
    lightning.main(["test", *words, "--verbose=false", f"--pictures={str(pictures).lower()}"])
    run = tmp_path / "lightning_logs" / recipe.name / Path(config).stem / "seed_0"
    results = json.loads((run / "results.json").read_text())
    assert results["test"]["images"] in (20, 4, 50, 360)
    is_taught = stage.taught_by or (recipe.name == "losses_cifar10" and stage.name != "baseline")
    assert ("agreement" in results["test"]) == bool(is_taught)
    missing = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    assert ("bias_correction" in results) == bool(missing["omit_classes"] or missing["only_classes"])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["losses_cifar10", "losses_mnist"])
def test_each_loss_has_six_settings_the_first_as_published(recipe):
    stages = find_recipe(recipe, CONFIGS).stages
    tuned = [stage for stage in stages.values() if stage.tries]
    assert len(tuned) == {"losses_cifar10": 17, "losses_mnist": 10}[recipe]
    for stage in tuned:
        published = stages[stage.name.removesuffix("_tuned")]
        assert stage.options == published.options
        assert len(stage.tries) == 6
        assert stage.tries[0] == {}
        for setting in stage.tries:
            options = replace(stage, options={**stage.options, **setting}).option_words
            lightning.parse(["fit", *stage.config_words, *options])


@pytest.mark.parametrize("config", [config for config in STAGES if config.startswith("cifar10")])
def test_every_cifar_stage_accepts_folders(config):
    folders = "cifar100_png.yaml" if config.startswith("cifar100") else "cifar10_folders.yaml"
    other = [f"--data={CONFIGS / folders}", "--data.root=mine"]
    own, swapped = (lightning.parse(["fit", f"--config={CONFIGS / config}", *words])["data"] for words in ([], other))
    assert swapped["class_path"] == "kd_lightning.data.ImageFolderDataModule"
    assert swapped["init_args"]["root"] == "mine"
    for option in ("mean", "std", "views", "batch_size", "image_size", "shuffle"):
        assert swapped["init_args"][option] == own["init_args"][option], option
    assert swapped["init_args"]["stored_size"] == 32  # as CIFAR-10's own: views are of the originals


@pytest.mark.parametrize("config", DATA)
def test_every_data_config_is_used_by_a_stage(config):
    folder, name = config.split("/")
    files = [CONFIGS / folder / COMMON_FILE, *(CONFIGS / stage for stage in STAGES if stage.startswith(f"{folder}/"))]
    assert any(yaml.safe_load(file.read_text()).get("data") == name for file in files)


@pytest.mark.parametrize("config", STAGES)
def test_every_stage_header_has_source_command_figure_and_deviation(config):
    header = [line[2:] for line in (CONFIGS / config).read_text().splitlines() if line.startswith("# ")]
    for field in ("Source: ", "Command: ", "Published figure: ", "Known deviation: "):
        assert sum(line.startswith(field) for line in header) == 1
    assert f"Command: kd-lightning fit --config configs/{config}" in header
    stages = find_recipe(config.split("/")[0], CONFIGS).stages.values()
    assert any(stage.config == CONFIGS / config for stage in stages)
    assert (
        lightning.parse(["fit", f"--config={CONFIGS / config}"])["trainer"]["logger"]["init_args"]["name"]
        == config[:-5]
    )


def test_the_pairs_of_cifar100_have_the_figures_and_the_weights_of_their_sources():
    stages = find_recipe("cifar100", CONFIGS).stages
    published = {
        "resnet20": ("resnet56", 72.34, 69.06, 70.66, 71.16, 71.97, 71.43),
        "resnet8x4": ("resnet32x4", 79.42, 72.50, 73.33, 75.51, 76.32, 76.62),
        "wrn_16_2": ("wrn_40_2", 75.61, 73.26, 74.92, 75.48, 76.23, 76.11),
    }
    methods = ("kd", "crd", "dkd", "kd_standardised")
    for student, (teacher, of_teacher, alone, *others) in published.items():
        assert stages[teacher].published == of_teacher
        assert stages[f"{student}_baseline"].published == alone
        assert [stages[f"{student}_{method}"].published for method in methods] == others
        assert [stages[f"{student}_{method}"].teacher for method in methods] == [teacher] * 4
        assert stages[f"{student}_dist"].teacher == teacher
    weights = {name: stages[f"{name}_dkd"].options["model.soft_loss"]["init_args"] for name in published}
    assert weights == {"resnet20": {"beta": 2.0}, "resnet8x4": {"beta": 8.0}, "wrn_16_2": {"beta": 6.0}}
    rising = {"class_path": "kd_lightning.WarmUp", "init_args": {"epochs": 20, "of": 240}}
    assert all(stages[f"{name}_dkd"].options["model.soft_weight"] == rising for name in published)
    widths = {name: stages[f"{name}_crd"].options["model.losses"][0]["loss"]["init_args"] for name in published}
    assert {name: each["student_width"] for name, each in widths.items()} == {
        "resnet20": 64,
        "resnet8x4": 256,
        "wrn_16_2": 128,
    }


def option_lines(file):
    """The lines of a config, without comments."""
    lines = [line.rstrip() for line in file.read_text().splitlines()]
    return [line for line in lines if line and not line.lstrip().startswith("#")]


def test_stages_do_not_repeat_each_other():
    """At most 15 % of all lines stand in an earlier file of the recipe too, in runs of three or more."""
    total = repeated = 0
    for recipe in RECIPES:
        earlier = set()
        stages = [CONFIGS / stage for stage in STAGES if stage.startswith(f"{recipe}/")]
        for file in [CONFIGS / recipe / COMMON_FILE, *stages]:
            lines = option_lines(file)
            runs = {start: tuple(lines[start : start + 3]) for start in range(len(lines) - 2)}
            again = {start + i for start, run in runs.items() if run in earlier for i in range(3)}
            earlier |= set(runs.values())
            if file in stages:
                total, repeated = total + len(lines), repeated + len(again)
    assert repeated <= 0.15 * total


@pytest.mark.parametrize(
    ("words", "version"),
    [([], "seed_0"), (["--seed_everything=3"], "seed_3"), (["--seed_everything", "4"], "seed_4")],
)
def test_default_seed_and_logger_of_a_stage(words, version):
    for order in ([*words, "--config", str(CONFIGS / "digits/teacher.yaml")], ["-c=digits/teacher", *words]):
        config = lightning.parse(["fit", *order])
        assert f"seed_{config['seed_everything']}" == version
        assert config["trainer"]["logger"]["init_args"]["version"] == version
        assert config["trainer"]["logger"]["init_args"]["save_dir"] == "lightning_logs"


@pytest.mark.parametrize("given", ["option", "later config", "stage"])
def test_a_given_seed_and_logger_replace_the_defaults(given, tmp_path):
    shutil.copytree(CONFIGS / "digits", tmp_path / "digits")
    stage = tmp_path / "digits/teacher.yaml"
    csv = "lightning.pytorch.loggers.CSVLogger"
    own = yaml.safe_dump(
        {"seed_everything": 5, "trainer": {"logger": {"class_path": csv, "init_args": {"save_dir": "."}}}}
    )
    words = [f"--config={stage}"]
    if given == "stage":
        stage.write_text(f"{stage.read_text()}\n{own}")
    elif given == "later config":
        (tmp_path / "own.yaml").write_text(own)
        words.append(f"--config={tmp_path / 'own.yaml'}")
    else:
        words += ["--seed_everything=5", f"--trainer.logger={csv}", "--trainer.logger.save_dir=."]
    config = lightning.parse(["fit", *words])
    assert config["seed_everything"] == 5
    assert config["trainer"]["logger"]["class_path"] == csv
    assert config["trainer"]["logger"]["init_args"]["save_dir"] == "."


def test_a_config_outside_of_a_recipe_folder_has_no_such_defaults(tmp_path):
    (tmp_path / "common.yaml").write_text("seed_everything: 7\n")
    model = lightning.parse(["fit", "--config=digits/teacher"])["model"]
    data = {"class_path": "kd_lightning.data.DigitsDataModule"}
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    config = lightning.parse(["fit", f"--config={tmp_path / 'teacher.yaml'}"])
    assert config["trainer"]["logger"] is None
    assert config["seed_everything"] != 7


def test_adding_a_stage_is_adding_one_file(tmp_path, monkeypatch):
    shutil.copytree(CONFIGS / "digits", tmp_path / "configs/digits")
    monkeypatch.chdir(tmp_path)
    Path("configs/digits/distill_T8.yaml").write_text(
        "stage: {published: 97.5, main: false}\n"
        "model:\n"
        "  teacher: {class_path: kd_lightning.models.MLP, init_args: {widths: [64, 400, 400, 10]}}\n"
        "  teacher_ckpt: lightning_logs/digits/teacher/seed_0\n"
        "  temperature: 8.0\n"
    )
    recipe = find_recipe("digits")
    assert recipe.stages.keys() == {*find_recipe("digits", CONFIGS).stages, "distill_T8"}
    assert recipe.stages["distill_T8"].teacher == "teacher"
    assert [stage.name for stage in recipe.choose(["distill_T8"])] == ["teacher", "distill_T8"]
    assert lightning.parse(["fit", "--config=digits/distill_T8"])["model"]["init_args"]["temperature"] == 8.0


def test_the_documented_recipes_exist():
    assert set(RECIPES) == {
        "digits",
        "mnist_transfer",
        "mnist_hinton",
        "cifar10_tutorial",
        "cifar10_densenet",
        "cifar10_vgg",
        "cifar100",
        "dogs_vs_cats",
        "losses_cifar10",
        "losses_mnist",
        "mnist_chains",
    }


def _without_teacher(stage, runs):
    """What a student's training is given, but for its teacher and the weights of the losses."""
    given = lightning.given_options(["fit", *planned_words(stage, runs, [])])
    model = given.pop("model")
    model = {"class_path": model} if isinstance(model, str) else model
    options = model.get("init_args", {})
    kept = {name: value for name, value in options.items() if name in inspect.signature(TeacherModule).parameters}
    trainer = {name: value for name, value in given.get("trainer", {}).items() if name != "logger"}
    return model["class_path"].rpartition(".")[2], [kept, given["data"], trainer]


@pytest.mark.parametrize("name", RECIPES)
def test_every_distilled_stage_has_a_control_that_differs_in_the_teacher_alone(name):
    recipe = find_recipe(name, CONFIGS)
    given = {stage: _without_teacher(recipe.stages[stage], Path("lightning_logs") / name) for stage in recipe.stages}
    teachers = {name for stage in recipe.stages.values() for name in stage.taught_by}
    students = [stage for stage, (kind, _) in given.items() if kind == "DistillModule" and stage not in teachers]
    assert students
    for stage in students:
        alone = [control for control in recipe.controls_of(stage) if given[control][0] == "TeacherModule"]
        assert given[stage][1] in [given[control][1] for control in alone], f"{stage}: {alone}"
