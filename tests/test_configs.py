"""Every YAML under configs/ is driven through the command on small made data: a new one is tested the day it comes."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from kd_lightning.cli import lightning as cli
from kd_lightning.recipe import find_recipe
from tests.made import write_cifar10, write_dogs_vs_cats, write_mnist

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(file.parent.name for file in CONFIGS.glob("*/recipe.yaml"))
STAGES = sorted(str(file.relative_to(CONFIGS)) for file in CONFIGS.glob("*/*.yaml") if "\nmodel:" in file.read_text())
RUNS = [f"{recipe}/{stage}" for recipe in RECIPES for stage in find_recipe(recipe, CONFIGS).stages]
DATA = sorted(str(file.relative_to(CONFIGS)) for file in CONFIGS.glob("*/data*.yaml"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Every dataset that a recipe asks for, made and small, in one folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kd_lightning.callbacks.results.BATCH_SIZES", (1,))  # 128 photographs are seconds of DenseNet
        folder = tmp_path_factory.mktemp("data")
        write_mnist(folder)
        write_cifar10(folder, patch)
        write_dogs_vs_cats(folder)
        yield folder


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """Where a stage's run lies, for its students: trained when it is first asked for."""
    folder = tmp_path_factory.mktemp("teachers")

    def run_of(config):
        run = folder / "lightning_logs" / Path(config).parent / Path(config).stem / "seed_0"
        if not run.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                cli.main(["fit", *small(config, root)])
        return run

    return run_of


def small(config, root):
    """Options that make a stage short; the recipe's own networks, losses, views and optimizers stay."""
    words = [f"--config={CONFIGS / config}", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    if not config.startswith("digits"):
        words += [f"--data.root={root}", "--data.train_size=null"]
    if not config.startswith(("digits", "mnist")):
        words.append("--data.batch_size=8")
    text = (CONFIGS / config).read_text()
    if "weights: DEFAULT" in text:  # no test downloads anything
        words.append("--model.net.weights=null")
    if config.startswith(("cifar10_densenet", "dogs_vs_cats")):  # a quarter of the pixels: seconds of DenseNet
        words.append("--data.image_size=64")
        words += ["--model.net.image_size=64"] if "SmallCNN" in text else []
    return words


def slow_if_large(run):
    """Networks of the fast suite: one DenseNet, one VGG and one ResNet-18 of photographs."""
    recipe, stage = run.split("/")
    large = recipe == "dogs_vs_cats" and "resnet18" not in stage
    again = recipe in ("cifar10_densenet", "dogs_vs_cats") and stage != "distill_resnet18" and "resnet18" in stage
    again |= recipe == "cifar10_vgg" and "published" in stage
    return pytest.param(run, marks=pytest.mark.slow) if large or again else run


@pytest.mark.parametrize("run", [slow_if_large(run) for run in RUNS])
def test_every_stage_fits_and_tests_by_its_own_command(run, root, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    recipe = find_recipe(run.split("/")[0], CONFIGS)
    stage = recipe.stages[run.split("/")[1]]
    config = f"{recipe.name}/{stage.config.name}"
    words = [*small(config, root), *stage.option_words]
    if stage.teacher:  # made by its own config, where the student's config looks for it
        made = trained(f"{recipe.name}/{recipe.stages[stage.teacher].config.name}")
        teacher = Path("lightning_logs", recipe.name, stage.teacher, "seed_0")
        shutil.copytree(made, tmp_path / teacher)
        words += [f"--model.teacher_ckpt={teacher}"] if stage.options else []
    cli.main(["fit", *words])
    pictures = stage is next(iter(recipe.stages.values()))  # they take longer than the rest of the test
    cli.main(["test", *words, "--verbose=false", f"--pictures={str(pictures).lower()}"])
    run = tmp_path / "lightning_logs" / recipe.name / Path(config).stem / "seed_0"
    results = json.loads((run / "results.json").read_text())
    assert results["test"]["images"] in (20, 4, 50, 360)
    assert ("agreement" in results["test"]) == bool(stage.teacher)
    missing = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    assert ("bias_correction" in results) == bool(missing["omit_classes"] or missing["only_classes"])


@pytest.mark.parametrize("config", [config for config in STAGES if config.startswith("cifar10")])
def test_every_cifar10_stage_takes_jpeg_folders_in_place_of_its_data(config):
    other = [f"--data={CONFIGS / 'cifar10_jpeg.yaml'}", "--data.root=mine"]
    own, swapped = (cli.parse(["fit", f"--config={CONFIGS / config}", *words])["data"] for words in ([], other))
    assert swapped["class_path"] == "kd_lightning.data.ImageFolderDataModule"
    assert swapped["init_args"]["root"] == "mine"
    for option in ("mean", "std", "views", "batch_size", "image_size", "shuffle"):
        assert swapped["init_args"][option] == own["init_args"][option], option
    assert swapped["init_args"]["stored_size"] == 32  # as CIFAR-10's own: views are of the originals


@pytest.mark.parametrize("config", DATA)
def test_every_data_config_is_used_by_a_stage(config):
    folder, name = config.split("/")
    stages = [file for file in (CONFIGS / folder).glob("*.yaml") if "\nmodel:" in file.read_text()]
    assert any(yaml.safe_load(file.read_text())["data"] == name for file in stages)


@pytest.mark.parametrize("config", STAGES)
def test_every_stage_says_source_command_figure_and_deviation_and_belongs_to_its_recipe(config):
    header = [line[2:] for line in (CONFIGS / config).read_text().splitlines() if line.startswith("# ")]
    for field in ("Source: ", "Command: ", "Published figure: ", "Known deviation: "):
        assert sum(line.startswith(field) for line in header) == 1
    assert f"Command: kd-lightning fit --config configs/{config}" in header
    stages = find_recipe(config.split("/")[0], CONFIGS).stages.values()
    assert any(stage.config == CONFIGS / config for stage in stages)
    assert yaml.safe_load((CONFIGS / config).read_text())["trainer"]["logger"]["init_args"]["name"] == config[:-5]


def test_the_recipes_are_the_ones_that_readers_are_told_of():
    assert set(RECIPES) == {
        "digits",
        "mnist_transfer",
        "mnist_hinton",
        "cifar10_tutorial",
        "cifar10_densenet",
        "cifar10_vgg",
        "dogs_vs_cats",
    }
