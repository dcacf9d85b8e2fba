"""Write the predicted class of each test image."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from kd_lightning.batch import class_names_of, data_of
from kd_lightning.callbacks.results import leaves_files
from kd_lightning.utils.atomic_write import write_text
from kd_lightning.utils.csv_text import csv_cell, csv_path
from kd_lightning.utils.run_folder import run_folder


class PredictionWriter(BasePredictionWriter):
    """Writes `predictions.csv` to the run folder: index in the test set, predicted class and its probability.

    For image folders, there is a column with the file.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Write all predictions; each of several processes writes a file."""
        run = run_folder(trainer)  # on every process: they agree on it
        if not leaves_files(trainer):
            return
        files = getattr(data_of(trainer), "test_names", None)
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["index", *(["file"] if files else []), "class", "probability"])
        for batch, places in zip(predictions, batch_indices[0], strict=True):
            confidence, predicted = batch.max(dim=-1)
            names = class_names_of(trainer, batch.shape[-1])
            rows = zip(places, predicted.tolist(), confidence.tolist(), strict=True)
            writer.writerows(
                [place, *([csv_path(files[place])] if files else []), csv_cell(names[c]), f"{p:.6f}"]
                for place, c, p in rows
            )
        part = "" if trainer.world_size == 1 else f"_{trainer.global_rank}"
        write_text(run / f"predictions{part}.csv", table.getvalue())
