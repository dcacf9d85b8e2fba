"""Config files on the command line: their paths, and what the folder of a recipe adds to a stage file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kd_lightning.cli.run_config import DEFAULT_LOGGER
from kd_lightning.errors import UserError
from kd_lightning.recipe import COMMON_FILE, CONFIGS, RECIPE_FILE, SHIPPED
from kd_lightning.utils.paths import expand

CONFIG_OPTIONS = ("--config", "-c")

DATA_OPTION = "--data"
"""Option that names a data module's class or config file."""


def read_config_words(words: list[str]) -> list[str]:
    """Replace the config files in the words of a command by what the parser can read.

    - `~` and environment variables are expanded. A pipe is replaced by its content: the parser reads configs twice.
    - The short name of a recipe's stage, such as `digits/teacher`, is replaced by the path of its file; that of another
      file of `configs/`, such as `cifar100_png` or `configs/cifar100_png.yaml`, too, and also as `--data`.
    - A stage file, which has a `recipe.yaml` beside it, is preceded by the `common.yaml` of its folder.
    - For a stage file, the seed is 0 and the logger writes to `lightning_logs/<recipe>/<stage>/seed_<n>` by default.
    """
    done: list[str] = []
    configs: list[str] = []
    stage: Path | None = None
    for word, config in _each(words):
        if config is None:
            done.append(word)
            continue
        if word == DATA_OPTION:
            done.append(f"{word}={config if _is_content(config) else _find(Path(config))}")
            continue
        config = _resolve(config, word)
        if _is_stage(config):
            stage = Path(config)
            common = str(stage.with_name(COMMON_FILE))
            if common not in configs and Path(common).is_file():
                configs.append(common)
                done.append(f"{word}={common}")
        configs.append(config)
        done.append(f"{word}={config}")
    return [*done[:1], *_defaults(stage, done, configs), *done[1:]] if stage else done


def config_files(words: list[str]) -> list[str]:
    """Return the config files that the words of a command name."""
    named = [config for option, config in _each(words) if config is not None and option in CONFIG_OPTIONS]
    return [config for config in named if not _is_content(config)]


def _each(words: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each word with None, but each option of a config or of data with its value."""
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        is_config = option in (*CONFIG_OPTIONS, DATA_OPTION)
        config = (value if equals else next(rest, None)) if is_config else None
        yield (word, None) if config is None else (option, config)


def _is_content(config: str) -> bool:
    return config.lstrip().startswith("{") or "\n" in config


def _resolve(config: str, option: str) -> str:
    """Return the path of a config file, or the content of a pipe."""
    if _is_content(config):
        return config
    path = _find(Path(expand(config, option)))
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{option}: {path} found, which is not text in UTF-8 ({error})") from error
    except OSError:  # which the parser explains
        return str(path)
    return content if path.is_fifo() or path.is_char_device() else str(path)


def _find(path: Path) -> Path:
    """Return a path, or the file of the user's or the shipped `configs/` that it names."""
    if path.exists():
        return path
    name = path.relative_to(CONFIGS) if path.is_relative_to(CONFIGS) else path
    named = (folder / f"{name}{suffix}" for folder in (CONFIGS, SHIPPED) for suffix in (".yaml", ""))
    return next((file for file in named if file.is_file()), path)


def _is_stage(config: str) -> bool:
    return not _is_content(config) and Path(config).is_file() and Path(config).with_name(RECIPE_FILE).is_file()


def _defaults(stage: Path, words: list[str], configs: list[str]) -> list[str]:
    """Return the words that set the default seed and logger of a stage."""
    contents = [_load(config) for config in configs]
    seeds = [content["seed_everything"] for content in contents if "seed_everything" in content]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option == "--seed_everything":
            seeds.append(value if equals else following)
    seed = str(seeds[-1]) if seeds else "0"
    place = {"save_dir": "lightning_logs", "name": f"{stage.resolve().parent.name}/{stage.stem}"}
    version = {"version": f"seed_{seed}"} if seed.isdecimal() else {}
    logger = json.dumps({"class_path": DEFAULT_LOGGER, "init_args": {**place, **version}})
    of_recipe = [_load(str(file)).get("trainer") or {} for file in (stage.with_name(COMMON_FILE), stage)]
    own = any("logger" in trainer for trainer in of_recipe)
    return ["--seed_everything=0", *([] if own else [f"--trainer.logger={logger}"])]


def _load(config: str) -> dict[str, Any]:
    """Read a config; an unreadable one, which the parser explains, is empty."""
    try:
        content = yaml.safe_load(config if _is_content(config) else Path(config).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
