"""The runs of a recipe: a stage's tries and its run per seed, with options, folder and all that figures depend on."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kd_lightning.checkpoints.file import read_weights
from kd_lightning.cli import lightning
from kd_lightning.cli.parser import pairs
from kd_lightning.cli.run_config import DEFAULT_LOGGER
from kd_lightning.commands.dependencies import data_digest, weights_digests
from kd_lightning.commands.loggers import PLACE, chosen_loggers, continued, loggers_of_run, override_words
from kd_lightning.commands.processes import spawns_processes
from kd_lightning.commands.tries import check_setting, validation_digest, without_given
from kd_lightning.errors import UserError
from kd_lightning.recipe import Recipe
from kd_lightning.reports.results import TEST_PARTS, TRIES, code_version, config_digest, label_of, read_results
from kd_lightning.stage import Stage, words_of
from kd_lightning.utils.progress import status

NO_SETTINGS = ("seed_everything", "label", "overwrite", "pictures")
"""Options of `fit` whose value is no part of a run's settings; the seed stands beside them in the fingerprint."""

LATER_NO_SETTINGS = ("stage", "disable_callbacks")
"""Further such options. They are left out, so that the settings of runs from before these options stay the same."""

VALIDATED = "validated"

NEEDED_CALLBACKS = ("ResultsWriter", "LastCheckpoint")
"""Callbacks that write the results which `reproduce` compares, and the checkpoint from which it resumes."""


@dataclass(frozen=True)
class Run:
    """A training of a stage with a seed.

    Attributes:
        stage: of the recipe.
        seed: of weights, order and views.
        folder: of the run.
        options: the words of `fit`, but for the loggers.
        loggers: class path and options of each.
        config: all options, as `options` set them.
        data: a digest of the images and labels.
        try_number: of the setting that it tries, from 1; such a run is validated and never tested. None for others.
        setting: options by dotted name of the try, or those chosen among tries.
    """

    stage: Stage
    seed: int
    folder: Path
    options: list[str]
    loggers: list[dict[str, Any]]
    config: dict[str, Any]
    data: str
    try_number: int | None = None
    setting: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name for people."""
        return f"{self.stage.name}, {f'try {self.try_number}' if self.try_number else f'seed {self.seed}'}"

    def words(self, continues: bool = False) -> list[str]:
        """Return the words of `fit`; `continues` if services continue the runs that they have begun."""
        loggers = continued(self.loggers, self.folder) if continues else self.loggers
        # null, or options of a logger of another class would remain
        chosen = ["--trainer.logger=null", f"--trainer.logger={json.dumps(loggers if loggers[1:] else loggers[0])}"]
        return [*self.options, *chosen]

    @cached_property
    def settings(self) -> str:
        """A digest of all that the figures depend on but the seed: options, data, weights and code.

        The weights of the teacher are part of it, so the teacher has to be trained first.
        """
        depends_on = {
            **{option: value for option, value in self.config.items() if option not in LATER_NO_SETTINGS},
            **dict.fromkeys(NO_SETTINGS),
            "data": [self.config["data"], self.data],
            "weights": weights_digests(self.config["model"]),
        }
        text = json.dumps([depends_on, code_version()], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def origin(self) -> dict[str, Any]:
        """What is recorded to check that a command makes this run: a digest of its options, and the chosen setting."""
        return {
            "options": options_digest(self.options),
            **({"setting": self.setting} if self.stage.tries else {}),
        }

    @property
    def fingerprint(self) -> str:
        """The settings and the seed."""
        return f"{self.settings}-{self.seed}"

    @property
    def is_finished(self) -> bool:
        """Whether it was trained and tested with these options, and its figures are still of that test.

        A try is finished when it is validated.
        """
        results = read_results(self.folder)
        if self.try_number:
            return results.get("fingerprint") == self.fingerprint and "val" in results
        finished = results.get("fingerprint") == self.fingerprint and "test" in results
        return finished and record_of_test(results) == results.get("reproduced")

    @property
    def is_trained(self) -> bool:
        """Whether it was trained with these options, and only a test is missing."""
        results = read_results(self.folder)
        is_this_run = results.get("label") == self.fingerprint
        is_complete = is_this_run and not results.get("fit", {"earlier": True}).get("earlier")
        return is_complete and any(self.last_checkpoint.parent.glob("*.ckpt"))

    @property
    def is_interrupted(self) -> bool:
        """Whether a training with these options was interrupted and can be resumed."""
        try:
            checkpoint = read_weights(self.last_checkpoint, "ckpt_path")
        except (OSError, UserError):  # absent or damaged
            return False
        # A run that was resumed with other options keeps its label.
        return label_of(checkpoint) == self.fingerprint and not checkpoint["callbacks"]["ResultsWriter"].get("earlier")

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint to resume from."""
        return self.folder / "checkpoints" / "last.ckpt"


def record_of_test(results: dict[str, Any]) -> dict[str, Any]:
    """Return what distinguishes the test of a run from another test of it: what it was measured on and its parts."""
    return {**results.get("measured_on", {}), "parts": [part for part in TEST_PARTS if part in results]}


@dataclass(frozen=True)
class StagePlan:
    """What `reproduce` trains for a stage: its tries, and then its runs.

    Attributes:
        stage: of the recipe.
        seeds: number of runs that are tested.
        words: of `fit` for all of them.
        overrides: further options of `fit`, which are among the words.
        shared: options of all tries, by dotted name.
        place: the folder of all runs, and `<recipe>/<stage>` in it.
        digests: of `all` images or of those of `validation`, by data config, and of those that the tries of a stage
            were `validated` on, by its name; is added to.
        command: that runs it, for errors.
    """

    stage: Stage
    seeds: int
    words: list[str]
    overrides: list[list[str]]
    shared: dict[str, Any]
    place: tuple[Path, str]
    digests: dict[tuple[str, str], str]
    command: str = "reproduce"

    @property
    def folder(self) -> Path:
        """Folder of the runs, and of what was chosen for them."""
        return self.place[0] / self.place[1]

    @cached_property
    def runs(self) -> list[Run]:
        """A run for each seed; with the first setting to try, if there are any, in place of the one to be chosen."""
        return self.with_setting(self.stage.tries[0] if self.stage.tries else {})

    def with_setting(self, setting: dict[str, Any]) -> list[Run]:
        """Return a run for each seed with further options.

        Raises:
            UserError: a mistake in the config, an option or the data.
        """
        return self._planned(setting, self.place[1], {f"seed_{seed}": seed for seed in range(self.seeds)})

    @cached_property
    def tries(self) -> list[Run]:
        """A run for each setting to try.

        Raises:
            UserError: a mistake in a setting; validation images that are no training images, or differ between tries.
        """
        return [self.try_of(setting, number) for number, setting in enumerate(self.stage.tries, start=1)]

    def try_of(self, setting: dict[str, Any], number: int) -> Run:
        """Return the run that tries a setting.

        Args:
            setting: options by dotted name.
            number: of the try, from 1.

        Raises:
            UserError: see `tries`.
        """
        check_setting(self.stage, setting, self.overrides, self.command)
        shared = without_given(self.shared, self.overrides)
        seed = int(shared.pop("seed_everything", 0))
        name = f"{self.place[1]}/{TRIES}"
        [run] = self._planned({**shared, **setting}, name, {f"try_{number}": seed}, number)
        validated = self._digest("validation", run.config["data"])
        if self.digests.setdefault((VALIDATED, self.stage.name), validated) != validated:
            raise UserError(
                f"tries of {self.stage.name}: validation images that differ from try to try found, the same expected "
                "(set their options in try_options)"
            )
        return run

    def _planned(
        self, options: dict[str, Any], name: str, seeds: dict[str, int], try_number: int | None = None
    ) -> list[Run]:
        words = [*self.words, *words_of(options)]
        config = lightning.parse(["fit", *words])
        if missing := [name for name in NEEDED_CALLBACKS if name in config["disable_callbacks"]]:
            raise UserError(f"disable_callbacks: {', '.join(missing)} found, but {self.command} needs it")
        logger = config["trainer"]["logger"]
        _check_logger(logger, self.overrides, self.command)
        chosen = chosen_loggers(logger, self.command)
        spawns_processes(config["trainer"])  # checks the devices
        data = self._digest("all", config["data"])
        runs = self.place[0]
        return [
            Run(
                stage=self.stage,
                seed=seed,
                folder=runs / name / version,
                options=[*words, f"--seed_everything={seed}"],
                loggers=loggers_of_run(chosen, runs, name, version),
                config=config,
                data=data,
                try_number=try_number,
                setting=options,
            )
            for version, seed in seeds.items()
        ]

    def _digest(self, part: str, data: dict[str, Any]) -> str:
        key = part, json.dumps(data, sort_keys=True, default=str)
        if key not in self.digests:
            self.digests[key] = data_digest(data) if part == "all" else validation_digest(data, self.stage)
        return self.digests[key]


def plan_runs(
    recipe: Recipe, stages: list[Stage], seeds: int, runs: Path, overrides: list[list[str]]
) -> list[StagePlan]:
    """Plan the runs of stages. All configs and test sets are read here, so that no mistake appears after a training.

    Args:
        recipe: of the stages.
        stages: a teacher before its students.
        seeds: number of runs of a stage that does not set its own.
        runs: the folder for `<recipe>/<stage>/seed_<n>`.
        overrides: further options of `fit`, each for the stages that have it.

    Raises:
        UserError: a mistake in a config, an option or the data.
    """
    plan: list[StagePlan] = []
    digests: dict[tuple[str, str], str] = {}
    used: set[str] = set()
    for stage in stages:
        with status(f"reading the config of {stage.name}"):
            its = [pair for pair in overrides if _has_option(stage, pair)]
            used |= {pair[0] for pair in its}
            shared = {
                name: value
                for name, value in recipe.try_options.items()
                if stage.tries and _has_option(stage, words_of({name: value}))
            }
            used |= shared.keys()
            place = runs, f"{recipe.name}/{stage.name}"
            words = _options(stage, runs / recipe.name, its)
            of_stage = StagePlan(stage, stage.seeds or seeds, words, its, shared, place, digests)
            _ = of_stage.tries, of_stage.runs
            plan.append(of_stage)
    for pair in overrides:
        if pair[0] not in used:
            _parse_with(stages[-1], pair)  # raises the error of an option that no stage has
    tried = [stage for stage in stages if stage.tries]
    for name, value in recipe.try_options.items() if tried else ():
        if name not in used:
            _parse_with(tried[-1], words_of({name: value}))
    return plan


def planned_words(
    stage: Stage, runs: Path, overrides: list[list[str]], setting: dict[str, Any] | None = None
) -> list[str]:
    """Return the words of `fit` for a stage of a recipe, without seed and logger.

    Args:
        stage: of the recipe.
        runs: the folder of the recipe's runs.
        overrides: options of the command, of which those are taken that the stage has.
        setting: chosen among the stage's tries, by dotted name.
    """
    its = [pair for pair in overrides if _has_option(stage, pair)]
    return [*_options(stage, runs, its), *words_of(setting or {})]


def options_digest(words: list[str]) -> str:
    """Return a digest of the options that words of `fit` and their configs give, without defaults, seed and logger."""
    return config_digest(lightning.given_options(["fit", *words]))


def _options(stage: Stage, runs: Path, overrides: list[list[str]]) -> list[str]:
    words = [*stage.config_words, "--trainer.enable_model_summary=false", *stage.option_words]
    return [*words, *stage.teacher_words(runs), *override_words(overrides)]


def _parse_with(stage: Stage, pair: list[str]) -> dict[str, Any]:
    return lightning.parse(["fit", *stage.config_words, *stage.option_words, *pair])


def _has_option(stage: Stage, pair: list[str]) -> bool:
    """Whether a stage has an option. Models differ (a baseline has no temperature); data and trainer options do not."""
    if not pair[0].startswith("--model."):
        return True
    try:
        _parse_with(stage, pair)
    except UserError as error:
        if "not accepted" not in str(error):
            raise
        return False
    return True


def _check_logger(logger: Any, overrides: list[list[str]], command: str) -> None:
    """Refuse options of the logger that a command sets for each run."""
    if logger is False:
        raise UserError(f"{command}: trainer.logger false found, a logger expected: it sets the run folder")
    if isinstance(logger, dict) and logger["class_path"] == DEFAULT_LOGGER:
        own = tuple(f"--trainer.logger.{option}" for option in PLACE)
        pairs([word for pair in overrides for word in pair], command, own)
