"""What a recipe is: the stages of one published system, and the figures it published."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.paths import expand

CONFIGS = Path("configs")
"""Where recipes are looked for, below the working folder."""

METRICS = {"right": "right images", "errors": "errors", "accuracy": "accuracy in %"}
"""What a recipe's figures are, with the words for it."""


@dataclass(frozen=True)
class Stage:
    """One training of a recipe.

    Attributes:
        name: of the stage and of its folder of runs.
        config: what `fit` and `test` take: a file, or its content.
        published: the source's figure, a number or a few words; None if it has none.
        corrected: the source's figures after the bias fix, by rule.
        teacher: the stage whose first run is this one's teacher; None if it has none.
        seeds: how often it is run; None for as often as asked for.
        main: whether it belongs to the source's main table, which is run by default.
        options: further options, by dotted name, set after the config.
    """

    name: str
    config: Path | dict[str, Any]
    published: float | str | None = None
    corrected: dict[str, float | str] = field(default_factory=dict)
    teacher: str | None = None
    seeds: int | None = None
    main: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def config_words(self) -> list[str]:
        """The words that make `fit` or `test` take the config."""
        return [f"--config={json.dumps(self.config) if isinstance(self.config, dict) else self.config}"]

    @property
    def option_words(self) -> list[str]:
        """The words that set the further options."""
        words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in self.options.items()}
        return [f"--{name}={word}" for name, word in words.items()]


@dataclass(frozen=True)
class Recipe:
    """The stages of one published system, in the order in which they run.

    Attributes:
        name: of its folder.
        stages: by name.
        title: for people.
        source: where it was published.
        metric: what the published figures are, one of `METRICS`.
        seeds: how often a stage is run by default.
    """

    name: str
    stages: dict[str, Stage]
    title: str
    source: str = "nothing published"
    metric: str = "accuracy"
    seeds: int = 3

    def choose(self, names: list[str] | None) -> list[Stage]:
        """The stages named, with the teachers they need; the main ones by default.

        Raises:
            UserError: a name that is not a stage.
        """
        unknown = [name for name in names or () if name not in self.stages]
        if unknown:
            raise UserError(f"--stages: {', '.join(unknown)} found, some of {', '.join(self.stages)} expected")
        chosen = set(names) if names else {stage.name for stage in self.stages.values() if stage.main}
        for stage in reversed(self.stages.values()):  # a teacher stands before its students
            if stage.name in chosen and stage.teacher:
                chosen.add(stage.teacher)
        return [stage for stage in self.stages.values() if stage.name in chosen]


def find_recipe(name: str, configs: Path) -> Recipe:
    """Read `configs/<name>/recipe.yaml`, that of the folder that `name` is the path of, or the file `name` itself.

    Raises:
        UserError: there is no such recipe, or its file is not one.
    """
    name = expand(name, "recipe")
    folder = configs / name if (configs / name / "recipe.yaml").is_file() else Path(name)
    file = folder if folder.is_file() else folder / "recipe.yaml"
    if not file.is_file():
        known = ", ".join(sorted(f.parent.name for f in configs.glob("*/recipe.yaml")))
        if not known:
            raise UserError(
                f"recipe: {name} found, but there are no recipes in {configs.absolute()}: they are looked for below "
                "the working folder; go to the repository's folder, or give the path of a recipe's file or folder"
            )
        raise UserError(f"recipe: {name} found, one of {known} expected, or a recipe's file or folder")
    try:
        return _read(file)
    except RecursionError as error:
        raise UserError(f"{file}: not a recipe (nested too deeply)") from error
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file}: not a recipe ({one_line(error)})") from error


def _read(file: Path) -> Recipe:
    content = yaml.safe_load(file.read_text())
    stages = {
        name: Stage(name=name, **{**stage, "config": _config_of(stage, file.parent)})
        for name, stage in content.pop("stages").items()
    }
    name = file.resolve().parent.name if file.name == "recipe.yaml" else file.stem
    recipe = Recipe(name=name, stages=stages, **content)
    if recipe.metric not in METRICS:
        raise UserError(f"{file}: metric {recipe.metric} found, one of {', '.join(METRICS)} expected")
    before: set[str] = set()
    for stage in stages.values():
        if stage.teacher and stage.teacher not in before:
            raise UserError(f"{file}: teacher {stage.teacher} of {stage.name} found, an earlier stage expected")
        before.add(stage.name)
    return recipe


def _config_of(stage: dict[str, Any], folder: Path) -> Path | dict[str, Any]:
    """A stage's config: a file beside the recipe's own, or what stands there in its place."""
    config = stage["config"]
    return config if isinstance(config, dict) else folder / config
