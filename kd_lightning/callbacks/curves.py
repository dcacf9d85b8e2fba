"""Write the metrics of each epoch to `metrics.csv`."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from kd_lightning.utils.atomic_write import write_text

METRICS_FILE = "metrics.csv"


class Curves:
    """Writes a row for each epoch to `metrics.csv`: epoch, step (from 0, as loggers count) and all logged metrics.

    A metric that an epoch did not measure has an empty cell. A resumed training keeps the rows before its checkpoint.
    """

    def __init__(self) -> None:
        self._file: Path | None = None
        self._rows: dict[str, dict[str, str]] = {}
        self._place: dict[str, str] | None = None
        self._validated = False

    def start(self, trainer: Trainer, run: Path, steps: int | None) -> None:
        """Prepare a training; `steps` are those before it if it is resumed.

        Where a `CSVLogger` writes its own `metrics.csv` into the run folder, this one is not written.
        """
        taken = any(isinstance(logger, CSVLogger) and Path(logger.log_dir) == run for logger in trainer.loggers)
        self._file = None if taken or not trainer.is_global_zero else run / METRICS_FILE
        self._place, self._validated = None, False
        rows = _read(self._file) if self._file and steps is not None else []
        self._rows = {row["epoch"]: row for row in rows if int(row["step"]) < (steps or 0)}

    def stop(self) -> None:
        """Write no file, and none of what follows."""
        self._file = None

    def note_validation(self) -> None:
        """Note that the epoch has a validation: metrics of an earlier one stay with the trainer."""
        self._validated = True

    def note_epoch(self, trainer: Trainer) -> None:
        """Note that an epoch has ended; its module has still to log its metrics."""
        self._place = {"epoch": str(trainer.current_epoch), "step": str(trainer.global_step - 1)}

    def write(self, trainer: Trainer, finished: bool = True) -> None:
        """Write the row of the epoch that has ended, if any; all processes have to call this.

        Args:
            trainer: has the metrics.
            finished: whether all callbacks have logged their metrics.
        """
        if self._place is None:
            return
        metrics: dict[str, Any] = trainer.callback_metrics
        row = {
            name: f"{float(value):.9g}"  # float32 exactly
            for name, value in metrics.items()
            if self._validated or not name.startswith("val/")
        }
        row = {**self._place, **row}
        if self._file and self._rows.get(row["epoch"]) != row:
            self._rows[row["epoch"]] = row
            names = sorted(set().union(*self._rows.values()) - {"epoch", "step"})
            text = io.StringIO()
            writer = csv.DictWriter(text, ["epoch", "step", *names], lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows.values())
            write_text(self._file, text.getvalue())
        if finished:
            self._place, self._validated = None, False


def _read(file: Path) -> list[dict[str, str]]:
    """Read the rows of an earlier training; none if there is no such file, or it is damaged."""
    try:
        with file.open(newline="") as lines:
            rows = [{name: value for name, value in row.items() if name and value} for row in csv.DictReader(lines)]
        return [row for row in rows if row["epoch"].isdecimal() and row["step"].lstrip("-").isdecimal()]
    except (OSError, ValueError, KeyError, csv.Error):
        return []
