"""One training of a recipe: its config, its teachers and its place in the tables."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def words_of(options: dict[str, Any]) -> list[str]:
    """Return the command-line words for options by dotted name."""
    words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    return [f"--{name}={word}" for name, word in words.items()]


@dataclass(frozen=True)
class Stage:
    """One training of a recipe.

    Attributes:
        name: of the stage and of the folder of its runs.
        config: a config file for `fit` and `test`, or the content of one.
        published: the published figure, a number or a few words; None if there is none.
        corrected: the published figures after a correction of the biases, by rule.
        teacher: the stage whose first run is the teacher; None without a teacher, or with several.
        teachers: the members of an ensemble in order, each a stage and the seed of its run, or a path and None.
        seeds: number of runs; None for the recipe's number.
        main: whether the stage is in the source's main table. Main stages are run by default.
        options: further options by dotted name, which override the config.
        tries: settings to choose from, each options by dotted name; the best on validation images is run.
        controls: stages that it is compared with, run by run of the same seed; None for the recipe's.
    """

    name: str
    config: Path | dict[str, Any]
    published: float | str | None = None
    corrected: dict[str, float | str] = field(default_factory=dict)
    teacher: str | None = None
    teachers: tuple[tuple[str, int | None], ...] = ()
    seeds: int | None = None
    main: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    tries: list[dict[str, Any]] = field(default_factory=list)
    controls: list[str] | None = None

    @property
    def taught_by(self) -> dict[str, int]:
        """The stages whose runs teach it, with the largest seed of those runs."""
        if self.teacher:
            return {self.teacher: 0}
        runs = [(name, seed) for name, seed in self.teachers if seed is not None]
        return {name: max(seed for other, seed in runs if other == name) for name, _ in runs}

    def teacher_words(self, runs: Path) -> list[str]:
        """Return the command-line words for the teachers' runs, which are in a recipe's folder of runs."""
        if self.teacher:
            return [f"--model.teacher_ckpt={runs / self.teacher / 'seed_0'}"]
        paths = [name if seed is None else str(runs / name / f"seed_{seed}") for name, seed in self.teachers]
        return [f"--model.teacher_ckpt={json.dumps(paths)}"] if self.taught_by else []

    @property
    def config_words(self) -> list[str]:
        """The command-line words for the config."""
        return [f"--config={json.dumps(self.config) if isinstance(self.config, dict) else self.config}"]

    @property
    def option_words(self) -> list[str]:
        """The command-line words for the further options."""
        return words_of(self.options)
