"""Expand `~` and environment variables in paths."""

import os
import re

from kd_lightning.errors import UserError

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
