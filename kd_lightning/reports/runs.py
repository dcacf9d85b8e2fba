"""Runs that were trained and tested: finding them, reading them, putting seeds together."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_lightning.reports.results import RESULTS_FILE, config_digest, read_results

MOST_BYTES = 8 * 2**20
"""Of a file that is compared: results of a thousand classes, the most that are kept, have 4 MiB."""


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
        fit, data = self.results["fit"], self.results.get("data", {})
        depends_on = [config_digest(config), data.get("train"), fit.get("teacher"), fit.get("earlier")]
        return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()

    @property
    def measured_on(self) -> dict[str, Any]:
        """What its test was made on; empty of a run from before that was kept."""
        return dict(self.results.get("measured_on") or {})

    @property
    def is_partial(self) -> bool:
        """Whether its test measured a part of the test set only."""
        of = self.measured_on.get("of")
        return of is not None and int(self.results["test"]["images"]) < int(of)

    @property
    def other_weights(self) -> str:
        """The checkpoint of another run that its folder's test measured; empty if it was its own."""
        if "checkpoint" not in self.measured_on:
            return ""
        checkpoint = self.measured_on["checkpoint"]
        return "no checkpoint of its own" if checkpoint is None else checkpoint if "/" in checkpoint else ""

    @property
    def kind(self) -> str:
        """What runs share whose figures may be averaged: their settings, and what their tests were made on."""
        names = ("of", "data", "checkpoint", "precision", "code")
        tested = [self.measured_on.get(name) for name in names] if self.measured_on else self._test_data
        return json.dumps([self.settings, self.results["test"]["images"], tested])

    @property
    def _test_data(self) -> Any:
        return self.results.get("data", {}).get("test")


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
    file = folder / RESULTS_FILE
    if file.is_file() and file.stat().st_size > MOST_BYTES:
        return f"{RESULTS_FILE} of {file.stat().st_size / 2**20:.1f} MiB, at most {MOST_BYTES / 2**20:.0f} are read"
    results = read_results(folder)
    if not results:
        return f"no {RESULTS_FILE} that can be read"
    missing = [words for part, words in {"fit": "not trained", "test": "not tested"}.items() if part not in results]
    return missing[0] if missing else MeasuredRun(folder, results)


def by_settings(runs: Sequence[MeasuredRun]) -> list[list[MeasuredRun]]:
    """Put together the runs that differ in nothing but the seed, in training and in test."""
    groups: dict[str, list[MeasuredRun]] = {}
    for run in runs:
        groups.setdefault(run.kind, []).append(run)
    return list(groups.values())


def comparable(runs: Sequence[MeasuredRun]) -> tuple[list[MeasuredRun], dict[Path, str]]:
    """Leave out runs whose tests do not compare with those of the others, each with the reason.

    A test with the weights of another run is no figure of this one; a test of a part of the test set does not stand
    beside tests of all of it.
    """
    some_are_whole = not all(run.is_partial for run in runs)
    kept: list[MeasuredRun] = []
    left_out: dict[Path, str] = {}
    for run in runs:
        words = f"--config {run.folder}/config.yaml --ckpt_path {run.folder} --trainer.limit_test_batches 1.0"
        again = f"kd-lightning test {words} measures it whole"
        if run.other_weights:
            left_out[run.folder] = f"its test measured {run.other_weights}; {again}"
        elif run.is_partial and some_are_whole:
            images, of = run.results["test"]["images"], run.measured_on["of"]
            left_out[run.folder] = f"its test measured {images} of {of} images; {again}"
        else:
            kept.append(run)
    return kept, left_out
