"""Rows of the results table: a stage with the figures of all its runs, from their results or a `comparison.json`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from kd_lightning.reports.by_class import class_figures_of, finite, numbers
from kd_lightning.reports.made_by import MadeBy
from kd_lightning.reports.right_images import unpack
from kd_lightning.reports.runs import Group, MeasuredRun
from kd_lightning.stage import Stage

RULES = {
    "as_trained": "as trained",
    "frequency": "bias by class frequency",
    "test_optimal": "bias chosen on the test set",
}
"""Rules of the bias correction and their names in the table."""

SCORES = ("macro_f1", "balanced_accuracy", "top5_accuracy", "nll", "calibration_error", "teacher_kl")
"""Further figures of a test that a table has on request; see `results.json`."""

DAMAGED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""Exceptions of reading figures from a file that does not follow its schema."""


class RunFigures(NamedTuple):
    """Figures of one run; None for what was not measured.

    Attributes:
        seed: of the run.
        errors: misclassified test images.
        seconds: time of the training.
        class_errors: errors on the classes of the bias correction.
        agreement: fraction of test images for which student and teacher predict the same class.
        latency: milliseconds by batch size, such as `batch_1`.
        scores: figures of `SCORES`.
        by_class: each of `CLASS_FIGURES` by class name; empty if read from a `comparison.json`.
        peak_mebibytes: largest memory of the training, of torch on a GPU or of the process on a CPU.
        right_images: a bit per test image, 1 for a correct one; see `right_images.pack`.
    """

    seed: int
    errors: int
    seconds: float
    class_errors: int | None
    agreement: float | None
    latency: dict[str, float]
    scores: dict[str, float] = {}  # noqa: RUF012  # never changed
    by_class: dict[str, dict[str, float]] = {}  # noqa: RUF012
    peak_mebibytes: float | None = None
    right_images: str | None = None


@dataclass(frozen=True)
class Row:
    """A stage, or a stage under one rule of the bias correction, with all its runs.

    Attributes:
        name: of the stage, and of the rule.
        metric: of `figures`, one of `METRICS`.
        published: figure of the source.
        runs: at least one.
        images: test images that each run measured.
        of: size of the test set; None if unknown.
        parameters: of the network.
        mebibytes: size of the network.
        reduction: fraction by which the network is smaller than its teacher.
        device: on which the runs were measured.
        threads: CPU threads of torch.
        controls: names of the rows that it is compared with.
        made_by: what its runs were made by; None if that is not known.
        teacher: name of the row of its teacher, if it has one in the table.
    """

    name: str
    metric: str
    published: float | str | None
    runs: list[RunFigures]
    images: int
    of: int | None
    parameters: int
    mebibytes: float
    reduction: float | None
    device: str
    threads: int | None
    controls: tuple[str, ...] = ()
    made_by: MadeBy | None = None
    teacher: str | None = None

    def with_controls(self, names: Sequence[str]) -> "Row":
        """Return the row with the names of the rows that it is compared with."""
        return replace(self, controls=tuple(names))

    @property
    def seeds(self) -> list[int]:
        """Seed of each run."""
        return [run.seed for run in self.runs]

    @property
    def errors(self) -> list[int]:
        """Errors of each run."""
        return [run.errors for run in self.runs]

    @property
    def figures(self) -> list[float]:
        """Figure of each run in the row's metric."""
        if self.metric == "accuracy":
            return self.accuracies
        return [float(self.images - wrong if self.metric == "right" else wrong) for wrong in self.errors]

    @property
    def accuracies(self) -> list[float]:
        """Accuracy of each run, in %."""
        return [100 * (1 - wrong / self.images) for wrong in self.errors]

    @property
    def agreement(self) -> list[float]:
        """Agreement with the teacher of each run for which it was measured."""
        return [run.agreement for run in self.runs if run.agreement is not None]

    @property
    def latency(self) -> dict[str, list[float | None]]:
        """Milliseconds of each run by batch size, for the sizes that any run measured."""
        sizes = sorted({size for run in self.runs for size in run.latency})
        return {size: [run.latency.get(size) for run in self.runs] for size in sizes}

    @property
    def scores(self) -> dict[str, list[float | None]]:
        """Each of `SCORES` that any run measured, of each run."""
        names = [name for name in SCORES if any(name in run.scores for run in self.runs)]
        return {name: [run.scores.get(name) for run in self.runs] for name in names}

    def record(self) -> dict[str, Any]:
        """Return the row as `comparison.json` stores it: lists have an entry for each run, or none."""
        agreement = [run.agreement for run in self.runs] if self.agreement else []
        return {
            "name": self.name,
            "published": self.published,
            "seeds": self.seeds,
            "figures": self.figures,
            "errors": self.errors,
            "images": self.images,
            "class_errors": [run.class_errors for run in self.runs if run.class_errors is not None],
            "agreement": agreement,
            "scores": self.scores,
            "parameters": self.parameters,
            "mebibytes": self.mebibytes,
            "reduction": self.reduction,
            "latency": self.latency,
            "device": self.device,
            "threads": self.threads,
            "seconds": [run.seconds for run in self.runs],
            "peak_mebibytes": [run.peak_mebibytes for run in self.runs],
            "of": self.of,
            "right_images": [run.right_images for run in self.runs],
            "made_by": self.made_by and self.made_by._asdict(),
            "teacher": self.teacher,
        }


def rows_of(stage: Stage, group: Group, metric: str, teacher_mebibytes: float | None) -> list[Row]:
    """Return the row of a group of runs, or a row for each rule if classes were left out of training.

    Raises:
        One of `DAMAGED`: results that do not follow their schema.
    """
    if not all("bias_correction" in run.results for run in group.runs):
        return [_row(group.name, stage.published, group.runs, None, metric, teacher_mebibytes)]
    return [
        _row(f"{group.name}, {words}", stage.corrected.get(rule), group.runs, rule, metric, teacher_mebibytes)
        for rule, words in RULES.items()
    ]


def _row(
    name: str,
    published: float | str | None,
    runs: list[MeasuredRun],
    rule: str | None,
    metric: str,
    teacher_mebibytes: float | None,
) -> Row:
    first, of = runs[0].results, runs[0].measured_on.get("of")
    if len({int(run.results["test"]["images"]) for run in runs}) > 1:
        raise ValueError(f"{name}: tests of different numbers of images")
    mebibytes = float(first["network"]["mebibytes"])
    return Row(
        name=name,
        metric=metric,
        published=published,
        runs=[_figures_of(run, rule, position) for position, run in enumerate(runs)],
        images=int(first["test"]["images"]),
        of=None if of is None else int(of),
        parameters=int(first["network"]["parameters"]),
        mebibytes=mebibytes,
        reduction=1 - mebibytes / teacher_mebibytes if teacher_mebibytes else None,
        device=str(first["device"]),
        threads=first.get("threads"),
        made_by=MadeBy.of(runs),
    )


def _figures_of(run: MeasuredRun, rule: str | None, position: int) -> RunFigures:
    """Return the figures of a run under a rule of the bias correction, or as tested."""
    test, trained = run.results["test"], rule in (None, "as_trained")
    figures = run.results["bias_correction"][rule] if rule else test
    return RunFigures(
        seed=position if run.seed is None else int(run.seed),
        errors=int(figures["errors"]),
        seconds=float(run.results["fit"]["seconds"]),
        class_errors=int(figures["class_errors"]) if rule else None,
        # All rules have the same network, which was compared with its teacher as trained.
        agreement=finite(test.get("agreement") if trained else None),
        latency=numbers(run.results.get("latency", {})),
        scores=numbers({name: test[name] for name in SCORES if name in test} if trained else {}),
        by_class=class_figures_of(run) if trained else {},
        peak_mebibytes=finite(run.results["fit"].get("peak_mebibytes")),
        right_images=run.results.get("right_images") if trained else None,
    )


def row_from(record: dict[str, Any], metric: str) -> Row:
    """Return a row of a `comparison.json`; what earlier versions did not store was not measured.

    Raises:
        One of `DAMAGED`: a record that does not follow its schema.
    """
    name, errors, images = str(record["name"]), record["errors"], int(record["images"])
    count = len(errors)
    seeds, published = record.get("seeds", range(count)), record["published"]
    if not count or {len(seeds), len(record["figures"]), len(record["seconds"])} != {count}:
        raise ValueError(f"{name}: {count} runs, or figures of other runs")

    def of_each_run(values: Sequence[Any]) -> Sequence[Any]:
        return values if len(values) == count else [None] * count  # an earlier version stored those of some runs

    classes, agreement = of_each_run(record["class_errors"]), of_each_run(record.get("agreement", []))
    peaks, right_images = (of_each_run(record.get(part, [])) for part in ("peak_mebibytes", "right_images"))
    latency, scores = (
        {str(name): of_each_run(values) for name, values in record.get(part, {}).items()}
        for part in ("latency", "scores")
    )
    row = Row(
        name=name,
        metric=metric,
        published=published if published is None or isinstance(published, int | float) else str(published),
        runs=[
            RunFigures(
                seed=int(seeds[i]),
                errors=int(errors[i]),
                seconds=float(record["seconds"][i]),
                class_errors=None if classes[i] is None else int(classes[i]),
                agreement=finite(agreement[i]),
                latency=numbers({size: values[i] for size, values in latency.items()}),
                scores=numbers({name: values[i] for name, values in scores.items()}),
                peak_mebibytes=finite(peaks[i]),
                right_images=right_images[i],
            )
            for i in range(count)
        ],
        images=images,
        of=None if record.get("of") is None else int(record["of"]),
        parameters=int(record["parameters"]),
        mebibytes=float(record["mebibytes"]),
        reduction=None if record["reduction"] is None else float(record["reduction"]),
        device=str(record.get("device", "")),
        threads=record.get("threads"),
        controls=tuple(str(each["control"]) for each in record.get("differences", [])),
        made_by=MadeBy.read(record["made_by"]) if record.get("made_by") else None,
        teacher=None if record.get("teacher") is None else str(record["teacher"]),
    )
    check(row)
    figures = [float(figure) for figure in record["figures"]]
    if not all(math.isclose(*pair, rel_tol=1e-6, abs_tol=1e-9) for pair in zip(figures, row.figures, strict=True)):
        raise ValueError(f"{name}: figures {figures}")
    return row


def check(row: Row) -> None:
    """Check that a row's figures can be shown.

    Raises:
        ValueError: no test images, more errors than images, a figure out of range, or bits of other errors.
    """
    if row.images < 1 or not all(0 <= wrong <= row.images for wrong in row.errors):
        raise ValueError(f"{row.name}: errors {row.errors} of {row.images} images")
    for run in row.runs:
        if run.right_images and int(unpack(run.right_images, row.images).sum()) != row.images - run.errors:
            raise ValueError(f"{row.name}: {run.errors} errors of seed {run.seed}, but another number in right_images")
    if row.of is not None and row.of < row.images:
        raise ValueError(f"{row.name}: {row.images} images of {row.of}")
    if isinstance(row.published, int | float) and not 0 <= float(row.published) < math.inf:
        raise ValueError(f"{row.name}: published {row.published}")
