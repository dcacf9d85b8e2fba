"""Files that an earlier training and its test left in a run folder."""

from pathlib import Path

from kd_lightning.callbacks.curves import METRICS_FILE
from kd_lightning.reports.results import PARTS, RESULTS_FILE, read_results

PICTURES = ("confusion.png", "errors.png", "mistakes.png", "reliability.png")
"""Pictures that a test draws into the run folder."""


def stale_files(run: Path) -> list[Path]:
    """Return files that an earlier fit and test left in a run's own folder."""
    # The newest event file is that of this fit.
    events = sorted(run.glob("events.out.tfevents.*"), key=lambda file: file.stat().st_mtime)[:-1]
    outputs = [*run.glob("predictions*.csv"), *(run / "export").glob("model*")]  # of the earlier network
    return [
        run / RESULTS_FILE,
        run / METRICS_FILE,
        run / "checkpoints" / "best.ckpt",
        *(run / name for name in PICTURES),
        *events,
        *outputs,
    ]


def own_results(run: Path) -> list[Path]:
    """Return the results of an earlier fit in a folder that is not the run's own."""
    found = read_results(run)
    return [run / RESULTS_FILE] if isinstance(found.get("label"), str) and set(found) <= PARTS else []
