"""Runs that were trained and tested: finding them, reading them, putting seeds together."""

import hashlib
import json
import re
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_lightning.results import RESULTS_FILE, read_results


@dataclass(frozen=True)
class MeasuredRun:
    """One training and its test."""

    folder: Path
    results: dict[str, Any]

    @property
    def seed(self) -> int | None:
        """Its seed; None of a run from before seeds were kept."""
        return self.results["fit"].get("seed")

    @property
    def settings(self) -> str:
        """A digest of all that the figures depend on but the seed; of a run that kept none of it, its own folder."""
        if "settings" in self.results:
            return str(self.results["settings"])
        config = self.results.get("config")
        if not config:
            return str(self.folder.resolve())
        config = deepcopy(config)
        for options, names in (
            (config, ("seed_everything", "label", "ckpt_path")),
            (config["trainer"], ("logger", "default_root_dir")),
            (config["data"].get("init_args") or {}, ("seed",)),
        ):
            for name in names:
                options.pop(name, None)
        depends_on = [config, self.results.get("data")]
        return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Group:
    """Runs of one stage that differ in nothing but the seed.

    Attributes:
        name: what it is called: the stage, and where that has several groups, the runs too.
        stage: the folder of its runs.
        runs: in the order of their folders, at least one.
    """

    name: str
    stage: str
    runs: list[MeasuredRun]


def natural(path: Path) -> list[list[str | int]]:
    """A key that sorts `seed_2` before `seed_10`."""
    return [[int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", part)] for part in path.parts]


def find_runs(folder: Path) -> list[Path]:
    """The run folders at or below a folder, in natural order."""
    return sorted({file.parent for file in folder.rglob(RESULTS_FILE)}, key=natural)


def read_run(folder: Path) -> MeasuredRun | str:
    """Read a run, or say in a word or two what keeps it from being compared."""
    results = read_results(folder)
    if not results:
        return f"no {RESULTS_FILE} that can be read"
    missing = [words for part, words in {"fit": "not trained", "test": "not tested"}.items() if part not in results]
    return missing[0] if missing else MeasuredRun(folder, results)


def by_settings(runs: list[MeasuredRun]) -> list[list[MeasuredRun]]:
    """Put together the runs that differ in nothing but the seed."""
    groups: dict[str, list[MeasuredRun]] = {}
    for run in runs:
        groups.setdefault(run.settings, []).append(run)
    return list(groups.values())
