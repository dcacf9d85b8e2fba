"""What the runs of a row were made by: commits, options and data, by digests."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from kd_lightning.reports.runs import MeasuredRun


class MadeBy(NamedTuple):
    """What the runs of a row were made by, so that a reader can check that the command beside it makes them.

    Attributes:
        commits: of the repository of their working folders, in order of the runs, each once.
        options: digest of the options that recipe and command give.
        setting: options by dotted name that were chosen among the stage's tries; None without tries.
        train_data: digest of the training images and their preprocessing.
        test_data: of the test images.
    """

    commits: list[str]
    options: str
    setting: dict[str, Any] | None
    train_data: str
    test_data: str

    @classmethod
    def of(cls, runs: Sequence[MeasuredRun]) -> "MadeBy | None":
        """Return the record of runs of `reproduce`; None of others, or of an earlier version."""
        if not all("recipe" in run.results for run in runs):
            return None
        commits = dict.fromkeys(str(run.results.get("commit") or "") for run in runs)
        first = runs[0].results
        data, recipe = first["data"], first["recipe"]
        return cls([*commits], recipe["options"], recipe.get("setting"), data["train"], data["test"])

    @classmethod
    def read(cls, record: dict[str, Any]) -> "MadeBy":
        """Read the record of a `comparison.json`.

        Raises:
            One of `DAMAGED`: it does not follow its schema.
        """
        made = cls(**record)
        texts = (*made.commits, made.options, made.train_data, made.test_data)
        if not isinstance(made.commits, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"made_by: {record}")
        return made._replace(setting=None if made.setting is None else {**made.setting})
