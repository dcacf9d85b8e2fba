"""`kd-lightning export`: write a trained network to ONNX and `torch.export`, and compare the files with PyTorch."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from kd_lightning.callbacks.setting import MEBIBYTE, size_in_bytes
from kd_lightning.checkpoints.description import Description, describe
from kd_lightning.cli.arguments import export_arguments
from kd_lightning.commands.load_run import Trained, load_trained
from kd_lightning.errors import UserError
from kd_lightning.export import (
    BATCH_SIZE,
    CALIBRATION_IMAGES,
    ONNX_PACKAGES,
    SUFFIXES,
    Deviation,
    ImageClassifier,
    Predictor,
    Reference,
    export_checked,
    export_int8,
    need_onnx,
    open_exported,
    random_images,
)
from kd_lightning.reports.results import RESULTS_FILE, update_results
from kd_lightning.utils.latency import BATCH_SIZES, median_milliseconds
from kd_lightning.utils.terminal import quiet_console

STEM = "model"
"""Name of the files without suffix."""

UNKNOWN = "\N{EN DASH}"
"""In place of an unknown figure."""


@dataclass(frozen=True)
class Form:
    """A form of a network, such as a file: its size, its deviation from PyTorch and its latency."""

    name: str
    mebibytes: float
    deviation: Deviation | None
    latency: dict[str, float]


def main(words: list[str]) -> None:
    """Run `kd-lightning export` with the words after it.

    Raises:
        UserError: a mistake in the command line, a checkpoint that cannot be read, a network that cannot be exported,
            or an exported file that differs from PyTorch.
    """
    options = export_arguments().parse_args(words)
    if options.int8 and "onnx" not in options.format:
        raise UserError("export: --int8 found, which is an ONNX file; --format onnx expected")
    if "onnx" in options.format:
        need_onnx(*ONNX_PACKAGES)
    if options.threads:
        torch.set_num_threads(options.threads)
    console = quiet_console()
    trained = load_trained(options.checkpoint, options.config, "export")
    data = _test_set(trained, console)
    calibration = _calibration(data) if options.int8 else None
    reference = _reference(trained, data)
    rows = [*_teacher(trained, console), _in_torch("", trained.classifier, reference.itself, trained.description)]
    folder = options.output or (trained.run or trained.file.parent) / "export"
    files = [folder / f"{STEM}{SUFFIXES[form]}" for form in options.format]
    for path in files:
        console.print(f"writing {path}")
        found = export_checked(trained.classifier, trained.description, path, reference, trained.digest)
        rows.append(_in_file(path, found, trained.description))
    if calibration:
        files.append(folder / f"{STEM}_int8.onnx")
        console.print(f"writing {files[-1]}")
        found = export_int8(folder / f"{STEM}.onnx", calibration, files[-1], reference)
        rows.append(_in_file(files[-1], found, trained.description))
    console.print(_table(rows, reference))
    _record(trained.run, rows)
    console.print(f"results: {folder} ({', '.join(file.name for file in files)})")
    console.print(f"next: kd-lightning predict {files[0]} IMAGE_OR_FOLDER …")


def _test_set(trained: Trained, console: Console) -> Any:
    """Return the data module of the training with its test set; None, and a line with the reason, if it is missing."""
    try:
        data = trained.data()
        if describe(data) != trained.description:
            raise UserError("the data has other images or classes than the checkpoint")
        # It refuses another split of the files than in the checkpoint.
        state = trained.content.get(type(data).__qualname__)
        data.load_state_dict(state if isinstance(state, dict) else {})
        data.setup("test")  # without `prepare_data`, which could download
    except UserError as error:
        console.print(f"no test images ({error}): compared on noise instead, errors are unknown")
        return None
    return data


def _reference(trained: Trained, data: Any) -> Reference:
    if data is None:
        return Reference.of(trained.classifier, random_images(trained.description.stored_shape))
    return Reference.of_test_set(trained.classifier, data)


def _calibration(data: Any) -> Iterator[Tensor]:
    """Return evenly spaced stored training images: uint8 batches (B, C, H, W)."""
    if data is None:
        raise UserError("int8: no training images found to measure ranges on; leave --int8 out, or name --config")
    data.setup("fit")
    places = data.train_positions[:: max(1, len(data.train_positions) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES]
    return (data.stored_images(part) for part in places.split(BATCH_SIZE))


def _teacher(trained: Trained, console: Console) -> list[Form]:
    if trained.teacher is None:
        return []
    try:
        teacher = ImageClassifier(trained.teacher(), trained.description)
    except UserError as error:
        console.print(f"no figures of the teacher ({error})")
        return []
    return [_in_torch("teacher ", teacher, None, trained.description)]


def _in_torch(role: str, form: ImageClassifier, deviation: Deviation | None, description: Description) -> Form:
    name = f"{role}{type(form.network).__name__}, PyTorch"
    return Form(name, size_in_bytes(form) / MEBIBYTE, deviation, _latency(form, description))


def _in_file(path: Path, deviation: Deviation, description: Description) -> Form:
    predictor = open_exported(path, "export")[1]
    return Form(path.name, path.stat().st_size / MEBIBYTE, deviation, _latency(predictor, description))


@torch.no_grad()
def _latency(predictor: Predictor, description: Description) -> dict[str, float]:
    """Milliseconds by batch size, from uint8 images to probabilities."""
    figures = {}
    for size in BATCH_SIZES:
        image = torch.randint(0, 256, (size, *description.stored_shape), dtype=torch.uint8)
        figures[f"batch_{size}"] = round(median_milliseconds(partial(predictor, image), torch.device("cpu")), 4)
    return figures


def _table(rows: list[Form], reference: Reference) -> Table:
    images = f"{len(reference.probabilities)} {'test images' if reference.label is not None else 'images of noise'}"
    threads = torch.get_num_threads()
    pace = f"milliseconds from pixels to probabilities, on a CPU with {threads} thread{'s' if threads > 1 else ''}"
    table = Table(title=f"{images}; {pace}")
    table.add_column("")
    for title in ("MiB", "errors", "same class", "largest difference", "ms for 1", "ms for 128"):
        table.add_column(title, justify="right")
    for row in rows:
        found = row.deviation
        errors = UNKNOWN if found is None or found.errors is None else str(found.errors)
        deviation = (f"{found.agreement:.2%}", f"{found.difference:.1e}") if found else (UNKNOWN, UNKNOWN)
        table.add_row(
            row.name, f"{row.mebibytes:.2f}", errors, *deviation, *(f"{ms:.3f}" for ms in row.latency.values())
        )
    return table


def _record(run: Path | None, rows: list[Form]) -> None:
    """Add the figures to the run's results."""
    if run is None or not (run / RESULTS_FILE).is_file():
        return
    figures = {
        row.name: {
            "mebibytes": round(row.mebibytes, 4),
            **(row.deviation._asdict() if row.deviation else {}),
            "latency": row.latency,
        }
        for row in rows
    }
    update_results(run, export={"threads": torch.get_num_threads(), "forms": figures})
