"""`kd-lightning compare`: existing runs side by side as a table, report, JSON or CSV."""

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kd_lightning.cli.arguments import compare_arguments
from kd_lightning.errors import UserError
from kd_lightning.recipe import Recipe, find_recipe, recipe_file, recipe_names
from kd_lightning.reports.columns import as_csv, print_warnings, terminal_table
from kd_lightning.reports.comparison import Comparison, compare_groups, merge, read_comparison, read_runs
from kd_lightning.reports.headline import headline
from kd_lightning.reports.html import write_report
from kd_lightning.reports.results import RESULTS_FILE
from kd_lightning.reports.runs import Group, MeasuredRun, by_settings, comparable, find_runs
from kd_lightning.utils.terminal import quiet_console


def main(words: list[str]) -> None:
    """Run `kd-lightning compare` with the words after it.

    Raises:
        UserError: a mistake in the command line, or nothing to compare.
    """
    options = compare_arguments().parse_intermixed_args(words)
    if options.verify:
        from kd_lightning.commands.verify import verify  # it parses configs, which takes torch; a table does not

        verify(options.what)
        return
    parts: dict[str, Comparison] = {}
    for source, part in _parts(options.what, options.runs):
        if part.rows:
            name = source.resolve().parent.name if source.name == "comparison.json" else source.name
            name = name.removesuffix(".json")
            parts[str(source) if name in parts else name] = part
    if not parts:
        raise UserError(f"compare: {', '.join(options.what)} found, a run that was trained and tested expected")
    names = options.columns.split(",") if options.columns else []
    if names and options.format == "json":
        raise UserError("--columns: found with --format json, which has all figures; table or csv expected")
    comparison = merge(parts, shlex.join(["kd-lightning", "compare", *words]))
    if options.format == "json":
        print(json.dumps(comparison.record(), indent=2))
    elif options.format == "csv":
        print(as_csv(comparison, names), end="")
    else:
        quiet_console().print(terminal_table(comparison, names))
        if line := headline(comparison):
            quiet_console().print(line, soft_wrap=True)
    print_warnings(comparison)
    if options.output or options.format == "table":
        report = write_report(comparison, options.output or options.runs / "compare", names)
        print(f"report: {report}", file=sys.stdout if options.format == "table" else sys.stderr)


def _parts(what: list[str], runs: Path) -> Iterator[tuple[Path, Comparison]]:
    """Yield the comparison of each argument with its file or folder; runs of one folder are compared together."""
    sources: dict[Path, list[Path]] = {}
    recipes: dict[Path, Recipe] = {}
    for word in what:
        path = Path(word).parent if Path(word).name == RESULTS_FILE else Path(word)
        if path.suffix == ".json" and path.is_file():
            sources[path] = []
            continue
        found = find_runs(path)
        if not found:
            recipe = _recipe(word)
            path = runs / recipe.name
            recipes[path.resolve()] = recipe
            found = find_runs(path)
            if not found:
                raise UserError(f"compare: no run of {word} found in {path} (kd-lightning reproduce {word} trains it)")
        for run in found:
            sources.setdefault(run.resolve().parent.parent, []).append(run)
    for source, its in sources.items():
        yield source, _of_runs(source, its, recipes.get(source)) if its else _of_file(source)


def _of_file(file: Path) -> Comparison:
    """Read a `comparison.json`, without the rows that its command does not make."""
    comparison = read_comparison(file)
    if not any(row.made_by for row in comparison.rows):
        return comparison
    from kd_lightning.commands.verify import unmade

    try:
        wrong = unmade(comparison, file.parent)
    except UserError as error:
        print(f"{file}: not checked against its command ({error})", file=sys.stderr)
        return comparison
    for name, reasons in wrong.items():
        print(f"left out: {name} of {file} ({'; '.join(reasons)})", file=sys.stderr)
    return replace(comparison, rows=[row for row in comparison.rows if row.name not in wrong])


def _recipe(word: str) -> Recipe:
    file = recipe_file(word)
    if file and file.suffix in (".yaml", ".yml"):
        return find_recipe(word)
    raise UserError(
        f"compare: {word} found, a run folder, a folder of runs (with {RESULTS_FILE} in them), a recipe or a "
        "comparison.json expected"
    )


def _of_runs(folder: Path, paths: list[Path], recipe: Recipe | None) -> Comparison:
    """Compare runs whose stages are in one folder, named after their recipe if they have one."""
    if recipe is None:
        known = folder.name in recipe_names()
        recipe = find_recipe(folder.name) if known else Recipe(folder.name, {}, f"Runs in {folder.name}", "")
    runs, left_out = read_runs(list({path.resolve(): path for path in paths}.values()))
    runs, others = comparable(runs)
    left_out |= others
    stages: dict[str, list[MeasuredRun]] = {stage: [] for stage in recipe.stages}
    for run in runs:
        stages.setdefault(run.folder.resolve().parent.name, []).append(run)
    groups: list[Group] = []
    for stage, its in stages.items():
        settings = by_settings(its)
        for alike in settings:
            kept = _one_a_seed(alike, left_out)
            folders = ", ".join(run.folder.resolve().name for run in kept)
            groups.append(Group(f"{stage}/{folders}" if len(settings) > 1 else stage, stage, kept))
    for path, reason in left_out.items():
        print(f"left out: {path} ({reason})", file=sys.stderr)
    return compare_groups(recipe, groups, "")


def _one_a_seed(runs: list[MeasuredRun], left_out: dict[Path, str]) -> list[MeasuredRun]:
    """Keep the last run of each seed."""
    last = {run.seed: run for run in runs if run.seed is not None}
    kept: list[MeasuredRun] = []
    for run in runs:
        if run.seed is None or last[run.seed] is run:
            kept.append(run)
        else:
            left_out[run.folder] = f"the seed and settings of {last[run.seed].folder}"
    return kept
