"""`kd-lightning predict MODEL IMAGE …`: classify image files."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from kd_lightning.checkpoints.description import Description
from kd_lightning.cli.arguments import predict_arguments
from kd_lightning.commands.load_run import load_trained
from kd_lightning.data.decode import Decoder
from kd_lightning.data.image_files import describe_ignored, list_images
from kd_lightning.errors import UserError, one_line
from kd_lightning.export import SUFFIXES, Predictor, open_exported
from kd_lightning.utils.atomic_write import write_text
from kd_lightning.utils.csv_text import csv_cell, csv_path
from kd_lightning.utils.progress import progress_bar
from kd_lightning.utils.terminal import quiet_console

MAX_NAMED = 3
"""Unreadable images that an error names; it counts the others."""


def main(words: list[str]) -> None:
    """Run `kd-lightning predict MODEL IMAGE …` with the words after `predict`.

    Raises:
        UserError: a mistake in the command line, a model that cannot be read, no image; or, once the others are
            written, images that cannot be read.
    """
    options = predict_arguments().parse_intermixed_args(words)
    files, notes = find_images(options.images)
    console = quiet_console()
    for note in notes:
        console.print(note, soft_wrap=True)
    description, predictor = open_model(options.model, options.config)
    decoder = decoder_of(description)
    unreadable: list[str] = []
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "class", "probability"])
    for names, images in _batches(files, decoder, options.batch_size, unreadable):
        confidence, predicted = predictor(images).max(dim=-1)
        rows = zip(names, predicted.tolist(), confidence.tolist(), strict=True)
        cells = ([csv_path(file), csv_cell(description.class_names[c]), f"{p:.6f}"] for file, c, p in rows)
        writer.writerows(cells)
    readable = len(files) - len(unreadable)
    if readable:
        write_text(options.output, table.getvalue())
        console.print(f"results: {options.output} ({readable} images)")
    if unreadable:
        more = f" and {len(unreadable) - MAX_NAMED} more" if len(unreadable) > MAX_NAMED else ""
        others = f"; the others are in {options.output}" if readable else ""
        raise UserError(
            f"predict: {len(unreadable)} of {len(files)} images cannot be read: "
            f"{', '.join(unreadable[:MAX_NAMED])}{more}{others}"
        )


def find_images(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """List image files: those given, and all images of given folders by their suffix, in order, each once.

    Returns:
        The files, and a line about the files skipped in each folder.

    Raises:
        UserError: no such file or folder, or a folder without images.
    """
    found: list[Path] = []
    notes: list[str] = []
    for path in paths:
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = list_images(path, "predict")
            ignored = describe_ignored(path, inside.others, inside.loops, named=True)
            if not inside.images:
                raise UserError("; ".join([f"predict: no image in {path}", *ignored]))
            found += inside.images
            notes += ignored
        else:
            raise UserError(f"predict: no file or folder {path}")
    return [*dict.fromkeys(found)], notes


def open_model(path: Path, config: Path | None) -> tuple[Description, Predictor]:
    """Return a model's description, and a function from images to probabilities.

    Raises:
        UserError: it cannot be read.
    """
    if path.suffix in SUFFIXES.values():
        return open_exported(path, "predict")
    trained = load_trained(path, config, "predict")

    def predictor(image: Tensor) -> Tensor:
        with torch.no_grad():
            return trained.classifier(image)

    return trained.description, predictor


def decoder_of(description: Description) -> Decoder:
    """Return the decoder that makes images of a network's stored shape.

    Raises:
        UserError: files cannot be decoded to that shape.
    """
    channels, height, width = description.stored_shape
    if channels not in (1, 3) or height != width:
        raise UserError(
            f"predict: the network reads images of {channels}x{height}x{width}, which image files cannot be decoded to"
        )
    return Decoder(channels=channels, size=height, crop=description.crop)


def _batches(
    files: Sequence[Path], decoder: Decoder, size: int, unreadable: list[str]
) -> Iterator[tuple[list[Path], Tensor]]:
    """Decode files in parallel; yield readable files with their images, and add the problems of others to a list."""

    def read(file: Path) -> Tensor | str:
        try:
            return decoder.read(file)[0]
        except Exception as error:  # Pillow's plug-ins raise many kinds
            return f"{file} ({one_line(error)})"

    chunks = [files[start : start + size] for start in range(0, len(files), size)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk in progress_bar(chunks, "predicting"):
            decoded = list(pool.map(read, chunk))
            unreadable += [problem for problem in decoded if isinstance(problem, str)]
            pairs = [(file, image) for file, image in zip(chunk, decoded, strict=True) if isinstance(image, Tensor)]
            if pairs:
                yield [file for file, _ in pairs], torch.stack([image for _, image in pairs])
