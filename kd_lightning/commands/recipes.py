"""The recipes that `reproduce` runs: list them, or copy one to change it."""

import shutil

from kd_lightning.cli.arguments import recipes_arguments
from kd_lightning.errors import UserError
from kd_lightning.recipe import CONFIGS, SHIPPED, find_recipe, recipe_names


def main(words: list[str]) -> None:
    """Run `kd-lightning recipes` with the words after it.

    Raises:
        UserError: a mistake in the command line, or a folder that a copy would overwrite.
    """
    given = recipes_arguments().parse_args(words).words
    if not given:
        _list()
    elif len(given) == 2 and given[0] == "copy":
        _copy(given[1])
    else:
        raise UserError(f"recipes: {' '.join(given)} found, nothing or copy RECIPE expected")


def _list() -> None:
    rows = []
    for recipe in map(find_recipe, recipe_names()):
        own = CONFIGS / recipe.name
        place = f" ({own})" if recipe.name in recipe_names(CONFIGS) else ""
        count = len(recipe.stages)
        rows.append((recipe.name, recipe.title, f"{count} stage{'s' * (count != 1)}", f"{recipe.data}{place}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _copy(name: str) -> None:
    known = recipe_names(SHIPPED)
    if name not in known:
        raise UserError(f"recipes: {name} found, one of {', '.join(known)} expected")
    target = CONFIGS / name
    if target.exists():
        raise UserError(f"recipes: {target} found, which the copy would overwrite; move it, or change it where it is")
    shutil.copytree(SHIPPED / name, target)
    print(f"copied: {target}")
    print(f"next: kd-lightning reproduce {name}")
