"""Find and read runs, and group those that differ in their seed alone."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_lightning.reports.results import RESULTS_FILE, TRIES, config_digest, read_results

MAX_BYTES = 8 * 2**20
"""Largest file to read: results of a thousand classes, the most that are stored, have 4 MiB."""


@dataclass(frozen=True)
class MeasuredRun:
    """A run that was trained and tested."""

    folder: Path
    results: dict[str, Any]

    @property
    def seed(self) -> int | None:
        """Seed; None for a run of a version that did not store it."""
        return self.results["fit"].get("seed")

    @property
    def settings(self) -> str:
        """Digest of all that the figures depend on except the seed; for a run without it, the folder."""
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
        """What the test measured; empty for a run of a version that did not store it."""
        return dict(self.results.get("measured_on") or {})

    @property
    def is_partial(self) -> bool:
        """Whether the test measured only a part of the test set."""
        of = self.measured_on.get("of")
        return of is not None and int(self.results["test"]["images"]) < int(of)

    @property
    def other_weights(self) -> str:
        """Checkpoint of another run that the test measured; empty for its own."""
        if "checkpoint" not in self.measured_on:
            return ""
        checkpoint = self.measured_on["checkpoint"]
        return "no checkpoint of its own" if checkpoint is None else checkpoint if "/" in checkpoint else ""

    @property
    def kind(self) -> str:
        """Key of runs whose figures may be averaged: settings, and what the test measured."""
        names = ("of", "data", "checkpoint", "precision", "code")
        tested = [self.measured_on.get(name) for name in names] if self.measured_on else self._test_data
        return json.dumps([self.settings, self.results["test"]["images"], tested])

    @property
    def _test_data(self) -> Any:
        return self.results.get("data", {}).get("test")


@dataclass(frozen=True)
class Group:
    """Runs of one stage that differ in their seed alone.

    Attributes:
        name: the stage; with the runs if the stage has several groups.
        stage: name of the stage.
        runs: at least one, in the order of their folders.
    """

    name: str
    stage: str
    runs: list[MeasuredRun]


def natural(path: Path) -> list[list[str | int]]:
    """Return a sort key that puts `seed_2` before `seed_10`."""
    return [[int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", part)] for part in path.parts]


def find_runs(folder: Path) -> list[Path]:
    """Return the run folders at or below a folder, in natural order; without those of tries, which are not tested."""
    found = {file.parent for file in folder.rglob(RESULTS_FILE)}
    return sorted({run for run in found if run.parent.name != TRIES or not run.name.startswith("try_")}, key=natural)


def read_run(folder: Path) -> MeasuredRun | str:
    """Read a run, or return the reason why it cannot be compared."""
    file = folder / RESULTS_FILE
    if file.is_file() and file.stat().st_size > MAX_BYTES:
        return f"{RESULTS_FILE} of {file.stat().st_size / 2**20:.1f} MiB, at most {MAX_BYTES / 2**20:.0f} are read"
    results = read_results(folder)
    if not results:
        return f"no {RESULTS_FILE} that can be read"
    missing = [words for part, words in {"fit": "not trained", "test": "not tested"}.items() if part not in results]
    return missing[0] if missing else MeasuredRun(folder, results)


def by_settings(runs: Sequence[MeasuredRun]) -> list[list[MeasuredRun]]:
    """Group the runs that differ in their seed alone, in training and test."""
    groups: dict[str, list[MeasuredRun]] = {}
    for run in runs:
        groups.setdefault(run.kind, []).append(run)
    return list(groups.values())


def comparable(runs: Sequence[MeasuredRun]) -> tuple[list[MeasuredRun], dict[Path, str]]:
    """Split runs into those whose tests are comparable and the others, with reasons.

    A test with the weights of another run is not comparable, nor is a test of a part of the test set if others measured
    all of it.
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
