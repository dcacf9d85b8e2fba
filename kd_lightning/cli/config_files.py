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


def read_config_words(words: list[str]) -> list[str]:
    """Replace the config files in the words of a command by what the parser can read.

    - `~` and environment variables are expanded. A pipe is replaced by its content: the parser reads configs twice.
    - The short name of a recipe's stage, such as `digits/teacher`, is replaced by the path of its file.
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
    return [config for _, config in _each(words) if config is not None and not _is_content(config)]


def _each(words: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each word with None, but each config option with its value."""
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        is_config = option in CONFIG_OPTIONS
        config = (value if equals else next(rest, None)) if is_config else None
        yield (word, None) if config is None else (option, config)


def _is_content(config: str) -> bool:
    return config.lstrip().startswith("{") or "\n" in config


def _resolve(config: str, option: str) -> str:
    """Return the path of a config file, or the content of a pipe."""
    if _is_content(config):
        return config
    path = Path(expand(config, option))
    if not path.exists():
        named = (folder / f"{path}{suffix}" for folder in (CONFIGS, SHIPPED) for suffix in (".yaml", ""))
        path = next((file for file in named if file.is_file()), path)
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{option}: {path} found, which is not text in UTF-8 ({error})") from error
    except OSError:  # which the parser explains
        return str(path)
    return content if path.is_fifo() or path.is_char_device() else str(path)


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
