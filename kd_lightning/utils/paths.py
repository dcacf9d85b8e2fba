"""Expand `~` and environment variables in paths."""

import os
import re
from pathlib import Path

from platformdirs import user_cache_path

from kd_lightning.errors import UserError

CACHE_VARIABLE = "KD_LIGHTNING_CACHE"
"""Environment variable with a cache folder in place of the user's default one."""

VARIABLE = re.compile(r"\$(?:\w+|\{\w+\})")


def expand(path: str | os.PathLike[str], option: str) -> str:
    """Replace `~`, `~user`, `$NAME` and `${NAME}` in a path, as a shell does.

    Args:
        path: as the user wrote it; a `$` that names no variable stays if such a file exists.
        option: the option that named the path, for errors.

    Raises:
        UserError: a variable that is not set, or a user without a home folder.
    """
    text = os.fspath(path)
    expanded = os.path.expandvars(text)
    if (unset := VARIABLE.search(expanded)) and not os.path.lexists(text):
        raise UserError(f"{option}: {text} found, but the variable {unset[0]} is not set")
    if expanded.startswith("~"):
        expanded, user = os.path.expanduser(expanded), expanded.partition("/")[0]  # noqa: PTH111
        if expanded.startswith("~"):
            raise UserError(f"{option}: {text} found, but {user} has no home folder; a file of that name is ./{text}")
    return expanded


def user_cache_folder(option: str) -> Path:
    """Return the folder for caches: `$KD_LIGHTNING_CACHE`, or the user's, such as `~/.cache/kd_lightning`.

    Args:
        option: what is cached there, for errors.

    Raises:
        UserError: the user has no home folder.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(expand(chosen, CACHE_VARIABLE)).absolute()
    try:
        folder = user_cache_path("kd_lightning", appauthor=False)
    except RuntimeError:  # newer versions of platformdirs; older ones return a path that begins with ~
        folder = Path()
    if not folder.is_absolute():
        raise UserError(
            f"{option}: no home folder found for its files; name a folder in {CACHE_VARIABLE} or by --data.cache_dir"
        )
    return folder
