"""Every YAML under configs/ is driven through the command on small made data: a new one is tested the day it comes."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from kd_lightning import cli
from kd_lightning.commands.recipe import find_recipe
from tests.made import write_mnist

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(file.parent.name for file in CONFIGS.glob("*/recipe.yaml"))
STAGES = sorted(str(file.relative_to(CONFIGS)) for file in CONFIGS.glob("*/*.yaml") if "\nmodel:" in file.read_text())
DATA = sorted(str(file.relative_to(CONFIGS)) for file in CONFIGS.glob("*/data*.yaml"))


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    return write_mnist(tmp_path_factory.mktemp("mnist"))


def small(config, mnist):
    """Options that make a stage short; the recipe's own networks, losses, views and optimizers stay."""
    words = [f"--config={CONFIGS / config}", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    if "MNISTDataModule" in (CONFIGS / config).read_text() or not config.startswith("digits"):
        words.append(f"--data.root={mnist}")
        if "train_size" in cli.parse(["fit", *words])["data"]["init_args"]:
            words.append("--data.train_size=null")
    return words


@pytest.mark.parametrize("config", STAGES)
def test_every_stage_fits_and_tests_by_its_own_command(config, mnist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    recipe = find_recipe(config.split("/")[0], CONFIGS)
    words = small(config, mnist)
    stage = next(stage for stage in recipe.stages.values() if stage.config.name == Path(config).name)
    if stage.teacher:  # made by its own config, where the student's config looks for it
        cli.main(["fit", *small(f"{recipe.name}/{recipe.stages[stage.teacher].config.name}", mnist)])
    cli.main(["fit", *words])
    cli.main(["test", *words, "--verbose=false"])
    run = tmp_path / "lightning_logs" / recipe.name / Path(config).stem / "seed_0"
    results = json.loads((run / "results.json").read_text())
    assert results["test"]["images"] in (50, 360)
    assert ("agreement" in results["test"]) == bool(stage.teacher)
    missing = cli.parse(["fit", *words])["data"]["init_args"]
    assert ("bias_correction" in results) == bool(missing["omit_classes"] or missing["only_classes"])


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
    assert set(RECIPES) >= {"digits", "mnist_transfer", "mnist_hinton"}
