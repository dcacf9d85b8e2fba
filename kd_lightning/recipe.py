"""Recipes: the training stages of one published system, with its published figures."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from kd_lightning.errors import UserError, one_line
from kd_lightning.stage import Stage
from kd_lightning.utils.paths import expand

CONFIGS = Path("configs")
"""Folder of the user's recipes, relative to the working folder."""

_PACKAGE = Path(__file__).parent

SHIPPED = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
"""Folder of the recipes that come with the package: inside of it in a wheel, beside it in the repository."""

RECIPE_FILE = "recipe.yaml"

COMMON_FILE = "common.yaml"
"""Config of a recipe's folder that each stage file there is laid over."""

OF_VARIANT = ("published", "teacher", "seeds", "main", "tries", "controls")
"""Keys of a variant that describe it as a stage, and are no options of `fit`."""

METRICS = {"right": "correct images", "errors": "errors", "accuracy": "accuracy in %"}
"""Metrics of published figures, with their names in reports."""


@dataclass(frozen=True)
class Recipe:
    """The stages of one published system, in the order in which they run.

    Attributes:
        name: of its folder.
        stages: by name; a teacher comes before its students.
        title: for people.
        source: where it was published.
        metric: of the published figures, one of `METRICS`.
        seeds: number of runs of a stage by default.
        data: the dataset, and where it comes from.
        controls: stages that each stage is compared with, unless it names its own.
        try_options: options of all tries by dotted name, such as the number of images to hold out for validation.
    """

    name: str
    stages: dict[str, Stage]
    title: str
    source: str = "nothing published"
    metric: str = "accuracy"
    seeds: int = 3
    data: str = ""
    controls: list[str] = field(default_factory=list)
    try_options: dict[str, Any] = field(default_factory=dict)

    def controls_of(self, name: str) -> list[str]:
        """Return the stages that a stage is compared with: its own controls, or the recipe's.

        A teacher has none of the recipe's, and of two controls the later stage is compared with the earlier one.
        """
        stage = self.stages.get(name)
        if stage is None or any(name in other.taught_by for other in self.stages.values()):
            return (stage and stage.controls) or []
        if stage.controls is not None:
            return stage.controls
        before = list(self.stages)[: list(self.stages).index(name)]
        return [each for each in self.controls if each != name and (name not in self.controls or each in before)]

    def choose(self, names: list[str] | None) -> list[Stage]:
        """Return the named stages and their teachers; the main stages by default.

        Raises:
            UserError: a name that is not a stage.
        """
        unknown = [name for name in names or () if name not in self.stages]
        if unknown:
            raise UserError(f"--stages: {', '.join(unknown)} found, some of {', '.join(self.stages)} expected")
        chosen = set(names) if names else {stage.name for stage in self.stages.values() if stage.main}
        for stage in reversed(self.stages.values()):  # a teacher comes before its students
            if stage.name in chosen:
                chosen |= stage.taught_by.keys()
        return [stage for stage in self.stages.values() if stage.name in chosen]


def recipe_names(*folders: Path) -> list[str]:
    """Return the names of the recipes in folders; by default the user's recipes and the shipped ones."""
    files = (file for folder in folders or (CONFIGS, SHIPPED) for file in folder.glob(f"*/{RECIPE_FILE}"))
    return sorted({file.parent.name for file in files})


def recipe_file(name: str, configs: Path = CONFIGS) -> Path | None:
    """Find the file of a recipe: below `configs`, at the path `name` (a file or folder), or among the shipped ones."""
    if Path(name).is_file():
        return Path(name)
    files = (folder / RECIPE_FILE for folder in (configs / name, Path(name), SHIPPED / name))
    return next((file for file in files if file.is_file()), None)


def find_recipe(name: str, configs: Path = CONFIGS) -> Recipe:
    """Find and read a recipe (see `recipe_file`).

    Raises:
        UserError: there is no such recipe, or its file is not one.
    """
    name = expand(name, "recipe")
    file = recipe_file(name, configs)
    if file is None:
        known = ", ".join(recipe_names(configs, SHIPPED))
        raise UserError(f"recipe: {name} found, one of {known} expected, or a recipe's file or folder")
    try:
        return _read(file)
    except RecursionError as error:
        raise UserError(f"{file}: not a recipe (nested too deeply)") from error
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file}: not a recipe ({one_line(error)})") from error


def _read(file: Path) -> Recipe:
    content = yaml.safe_load(file.read_text())
    in_folder = file.name == RECIPE_FILE
    found = in_folder and "stages" not in content
    stages = _stages_in(file.parent) if found else _listed_stages(content.pop("stages"), file)
    recipe = Recipe(name=file.resolve().parent.name if in_folder else file.stem, stages=stages, **content)
    if not stages:
        raise UserError(f"{file}: no stage found, a config file for each training expected beside it")
    if recipe.metric not in METRICS:
        raise UserError(f"{file}: metric {recipe.metric} found, one of {', '.join(METRICS)} expected")
    _check_comparisons(recipe, file)
    return recipe


def _check_comparisons(recipe: Recipe, file: Path) -> None:
    """Check controls and tries.

    Raises:
        UserError: a control that is no other stage, or tries that are no list of options by name.
    """
    for name, controls in [("", recipe.controls), *((stage.name, stage.controls) for stage in recipe.stages.values())]:
        others = [stage for stage in recipe.stages if stage != name]
        if controls is not None and not (isinstance(controls, list) and set(controls) <= set(others)):
            of = f" of {name}" if name else ""
            raise UserError(f"{file}: controls{of}: {controls} found, a list of {', '.join(others)} expected")
    if not isinstance(recipe.try_options, dict):
        raise UserError(f"{file}: try_options: {recipe.try_options} found, options by dotted name expected")
    for stage in recipe.stages.values():
        if not isinstance(stage.tries, list) or not all(isinstance(each, dict) for each in stage.tries):
            found = f"tries of {stage.name}: {stage.tries} found"
            raise UserError(f"{file}: {found}, a list of settings (options by dotted name) expected")


def _listed_stages(listed: dict[str, dict[str, Any]], file: Path) -> dict[str, Stage]:
    """Read the stages that a recipe's file lists, each with its config: a file beside it, or the content of one."""
    stages: dict[str, Stage] = {}
    for name, about in listed.items():
        config, teacher = about["config"], about.get("teacher")
        about = {**about, "config": config if isinstance(config, dict) else file.parent / config}
        if isinstance(teacher, list):
            about |= {"teacher": None, "teachers": tuple(_run_of(f"/{each}") or (each, 0) for each in teacher)}
        stage = Stage(name=name, **about)
        for teacher in stage.taught_by:
            if teacher not in stages:
                raise UserError(f"{file}: teacher {teacher} of {name} found, an earlier stage expected")
        stages[name] = stage
    members = {name for stage in stages.values() for name, _ in stage.teachers}
    return {
        name: replace(stage, seeds=_seeds_of(stage, stages.values())) if name in members else stage
        for name, stage in stages.items()
    }


def _stages_in(folder: Path) -> dict[str, Stage]:
    """Read the stage files of a recipe's folder: all YAML files but those of the recipe, the common part and the data.

    Each makes a stage and, for each of its `variants`, a further stage with other options, and keys of `OF_VARIANT`.
    """
    common = _load(folder / COMMON_FILE) if (folder / COMMON_FILE).is_file() else {}
    found: list[Stage] = []
    for file in sorted(folder.glob("*.yaml")):
        config = _load(file)
        if file.name in (RECIPE_FILE, COMMON_FILE) or "class_path" in config:
            continue
        about = dict(config.get("stage") or {})
        variants = about.pop("variants", {})
        unknown = about.keys() - {each.name for each in fields(Stage)}
        if unknown:
            known = "published, corrected, teacher, seeds, main, tries, controls and variants"
            raise UserError(f"{file}: stage: {', '.join(unknown)} found, some of {known} expected")
        teacher = _teachers_in(_teacher_of(config, common))
        found.append(Stage(**{"name": file.stem, "config": file, **teacher, **about}))
        for name, options in variants.items():
            own = _teachers_in(options["model.teacher_ckpt"]) if "model.teacher_ckpt" in options else teacher
            of_stage = {key: options[key] for key in OF_VARIANT if key in options}
            others = {key: value for key, value in options.items() if key not in OF_VARIANT}
            found.append(Stage(**{"name": name, "config": file, **own, "main": False, **of_stage}, options=others))
    names = {stage.name for stage in found}
    return _in_order(_with_known_teachers(stage, names) for stage in found)


def _load(file: Path) -> dict[str, Any]:
    """Read a YAML file.

    Raises:
        UserError: it does not hold options by name.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not YAML ({one_line(error)})") from error
    if not isinstance(content or {}, dict):
        raise UserError(f"{file}: {one_line(content)} found, options by name expected")
    return content or {}


def _teacher_of(config: dict[str, Any], common: dict[str, Any]) -> Any:
    """Find a config's `model.teacher_ckpt`, in the common part unless the config has another class."""
    model, shared = (part.get("model") or {} for part in (config, common))
    class_path = model if isinstance(model, str) else model.get("class_path")
    if isinstance(model, str) or (class_path and class_path != shared.get("class_path")):
        shared = {}
    options = [{} if isinstance(part, str) else {**part, **part.get("init_args", {})} for part in (model, shared)]
    return next((part["teacher_ckpt"] for part in options if "teacher_ckpt" in part), None)


def _teachers_in(paths: Any) -> dict[str, Any]:
    """Return a stage's `teacher` or the paths of its `teachers` for its `model.teacher_ckpt`."""
    if isinstance(paths, list):
        return {"teachers": tuple((path, None) for path in paths)}
    run = _run_of(paths)
    return {"teacher": run and run[0]}


def _with_known_teachers(stage: Stage, names: set[str]) -> Stage:
    """Return a stage whose teachers are runs of the recipe's stages, or else files."""
    runs = [(_run_of(path), path) for path, _ in stage.teachers]
    teachers = tuple(run if run and run[0] in names else (path, None) for run, path in runs)
    return replace(stage, teacher=stage.teacher if stage.teacher in names else None, teachers=teachers)


def _run_of(path: Any) -> tuple[str, int] | None:
    """Return stage and seed of a run folder `lightning_logs/<recipe>/<stage>/seed_<n>`; None for another path.

    The recipe may be another one: a folder that was copied under a new name still has the old name in its configs.
    """
    found = re.fullmatch(r".*/([^/]+)/seed_(\d+)", path) if isinstance(path, str) else None
    return (found[1], int(found[2])) if found else None


def _in_order(stages: Iterable[Stage]) -> dict[str, Stage]:
    """Sort stages: teachers, then the main stages, then others; by name, `T2` before `T10`."""
    by_name = {stage.name: stage for stage in stages}
    order = list(TopologicalSorter({name: {*stage.taught_by} for name, stage in by_name.items()}).static_order())
    teachers = {name for stage in by_name.values() for name in stage.taught_by}

    def place(stage: Stage) -> tuple[int, bool, list[int | str]]:
        rank = order.index(stage.name) if stage.name in teachers else len(order)
        pieces = re.split(r"(\d+)", stage.name)
        return rank, not stage.main, [int(piece) if piece.isdecimal() else piece for piece in pieces]

    return {
        stage.name: replace(stage, seeds=_seeds_of(stage, by_name.values()))
        for stage in sorted(by_name.values(), key=place)
    }


def _seeds_of(stage: Stage, stages: Iterable[Stage]) -> int | None:
    """Return a stage's number of runs: its own; for a teacher, as many as its students need; None for the recipe's.

    Raises:
        UserError: fewer than its students need.
    """
    needed = max((1 + other.taught_by[stage.name] for other in stages if stage.name in other.taught_by), default=None)
    if stage.seeds and needed and stage.seeds < needed:
        raise UserError(f"seeds of {stage.name}: {stage.seeds} found, {needed} expected, which teach other stages")
    return stage.seeds or needed
