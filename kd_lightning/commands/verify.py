"""`kd-lightning compare --verify`: whether recorded figures follow from what is recorded beside them."""

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kd_lightning.commands.plan import options_digest, planned_words
from kd_lightning.commands.reproduce import Command
from kd_lightning.errors import UserError
from kd_lightning.reports.comparison import Comparison, read_comparison
from kd_lightning.reports.made_by import MadeBy
from kd_lightning.reports.rows import RULES, Row
from kd_lightning.stage import Stage

COMMAND = ["kd-lightning", "reproduce"]


def verify(what: list[str]) -> None:
    """Check files of `comparison.json`, and print what was found.

    The figures of each row have to follow from a bit per test image, its options from the command, its runs have to be
    those of all seeds, and its commits have to be in this repository.

    Args:
        what: files, or folders of files.

    Raises:
        UserError: no such file, or a row that is not verified.
    """
    files = [file for word in what for file in _files(Path(word))]
    failed = count = 0
    for file in files:
        comparison = read_comparison(file)  # figures, errors and bits agree, or it is refused
        wrong = _unmade_or_unknown(comparison, file.parent)
        reasons = {row.name: [*wrong.get(row.name, ()), *_unrecorded(row)] for row in comparison.rows}
        for name, its in reasons.items():
            for reason in its:
                print(f"{file}: {name}: {reason}")
        failed += sum(bool(its) for its in reasons.values())
        count += len(comparison.rows)
        if not any(reasons.values()):
            print(f"{file}: {len(comparison.rows)} rows verified")
    if failed:
        raise UserError(f"compare --verify: {failed} of {count} rows found that are not verified, none expected")


def _files(path: Path) -> list[Path]:
    """Return a file, or the JSON files of a folder.

    Raises:
        UserError: there are none.
    """
    found = sorted(path.glob("*.json")) if path.is_dir() else [path] if path.is_file() else []
    if not found:
        raise UserError(f"compare --verify: {path} found, a comparison.json or a folder of such files expected")
    return found


def unmade(comparison: Comparison, folder: Path) -> dict[str, list[str]]:
    """Return the rows that the command of a comparison does not make, with reasons.

    Rows without a record of their options, and comparisons of other commands, are not checked.

    Args:
        comparison: read from a file.
        folder: of that file, in which a recipe's file is looked for first.

    Raises:
        UserError: the command cannot be read, as its recipe or one of its files is not found.
    """
    words = shlex.split(comparison.command)
    if words[:2] != COMMAND or not any(row.made_by for row in comparison.rows):
        return {}
    command = Command.read(words[2:], folder)
    found = {
        row.name: list(_mismatches(row, command, row.made_by)) for row in comparison.rows if row.made_by is not None
    }
    return {name: reasons for name, reasons in found.items() if reasons}


def _unmade_or_unknown(comparison: Comparison, folder: Path) -> dict[str, list[str]]:
    try:
        return unmade(comparison, folder)
    except UserError as error:
        reason = f"cannot be checked against its command ({error})"
        return {row.name: [reason] for row in comparison.rows if row.made_by}


def _mismatches(row: Row, command: Command, made_by: MadeBy) -> Iterator[str]:
    stage = command.recipe.stages.get(row.name.split(", ")[0])
    if stage is None:
        yield f"a stage that the recipe {command.recipe.name} does not have"
        return
    seeds = list(range(stage.seeds or command.seeds))
    if sorted(row.seeds) != seeds:
        yield f"seeds {row.seeds} found, {seeds} expected, as the command has"
    if made_by.setting is not None and made_by.setting not in stage.tries:
        yield f"setting {made_by.setting} found, one of the stage's tries expected"
    elif made_by.setting is None and stage.tries:
        yield "no setting found, one of the stage's tries expected"
    elif _digest(stage, command, made_by) != made_by.options:
        yield "other options than those that its command gives now"


def _digest(stage: Stage, command: Command, made_by: MadeBy) -> str:
    runs = command.runs / command.recipe.name
    return options_digest(planned_words(stage, runs, command.overrides, made_by.setting))


def _unrecorded(row: Row) -> Iterator[str]:
    """Yield what is missing in the record of a row, or cannot be found in this repository."""
    if row.made_by is None:
        yield "no record of options and commit, as an earlier version made it"
        return
    corrected = [words for rule, words in RULES.items() if rule != "as_trained"]
    if not row.name.endswith(tuple(f", {words}" for words in corrected)):  # those images are not recorded
        without = [run.seed for run in row.runs if not run.right_images]
        if without:
            yield f"no bit per test image of the seeds {without}"
    for commit in row.made_by.commits:
        if not commit:
            yield "no commit, as it was run outside of a git repository"
        elif commit.endswith("+"):
            yield f"commit {commit} found, one without changed files expected"
        elif not _is_known(commit):
            yield f"commit {commit} found, one of this repository's expected"


def _is_known(commit: str) -> bool:
    words = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    try:
        return subprocess.run(words, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
