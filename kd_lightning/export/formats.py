"""Write and open exported files: ONNX and `torch.export`.

Both map images, uint8 (B, *stored_shape), to probabilities, float32 (B, classes), for any B, and carry `metadata`: in
ONNX's metadata_props, and in `metadata.json` among the extra files of a `.pt2`.
"""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from kd_lightning import __version__
from kd_lightning.checkpoints.description import Description
from kd_lightning.errors import UserError
from kd_lightning.export.classifier import ImageClassifier
from kd_lightning.export.digest import KEY, check_digest, expect_digest
from kd_lightning.export.probe import Predictor, check_predictor, short
from kd_lightning.utils.extras import need_packages

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
"""File suffixes by format."""

EXTRA_FILE = "metadata.json"

BATCH_SHAPES = ({0: Dim("batch")},)
"""Dynamic shapes of the input: any number of images."""

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

NOISY = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch.fx", "root")


def need_onnx(*names: str) -> None:
    """Check that packages for ONNX files are installed.

    Raises:
        UserError: one is not.
    """
    need_packages(*names, advice="; or --format torch, which needs nothing more")


def metadata(description: Description, network: str, checkpoint: str = "") -> dict[str, str]:
    """Return the metadata of an exported file, each value in JSON.

    Args:
        description: images and classes.
        network: name of the network's class.
        checkpoint: SHA-256 of the network's checkpoint; empty for none.
    """
    channels, height, width = description.stored_shape
    entries = {
        **description.plain(),
        "input": f"uint8 (batch, {channels}, {height}, {width}), {'RGB' if channels == 3 else 'grey'}, 0 to 255",
        "output": f"probabilities, float32 (batch, {len(description.class_names)}), in the order of class_names",
        "network": network,
        "kd_lightning": __version__,
        "checkpoint_sha256": checkpoint,
        KEY: "SHA-256 of all other bytes of this file",
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in entries.items()}


def trace(classifier: ImageClassifier, description: Description) -> ExportedProgram:
    """Trace a classifier as a program of tensor operations, for any number of images.

    Raises:
        UserError: torch cannot export the network.
    """
    image = torch.zeros(2, *description.stored_shape, dtype=torch.uint8)
    with short_errors(_refusal(classifier.network)), quiet():
        program = torch.export.export(classifier, (image,), dynamic_shapes=BATCH_SHAPES)
    for node in program.graph.nodes:  # stack traces contain local paths
        node.meta.pop("stack_trace", None)
    return program


def write_torch(program: ExportedProgram, entries: dict[str, str], path: Path) -> None:
    """Write a `.pt2`."""
    content = io.BytesIO()
    with quiet():
        torch.export.save(program, content, extra_files={EXTRA_FILE: json.dumps(entries)})
    path.write_bytes(content.getbuffer())


def write_onnx(program: ExportedProgram, entries: dict[str, str], network: nn.Module, path: Path) -> None:
    """Write an ONNX file with its weights.

    Raises:
        UserError: a package is missing, or ONNX lacks an operation of the network.
    """
    need_onnx(*ONNX_PACKAGES)
    with short_errors(_refusal(network)), quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes=BATCH_SHAPES,
        )
        assert made is not None  # as dynamo is true
        made.model.metadata_props.update(entries)
        made.save(path, external_data=False)


def open_exported(path: Path, option: str) -> tuple[Description, Predictor]:
    """Verify the digest of an exported file, and open it.

    An ONNX file is data. A `.pt2` is a program: torch runs what is in it.

    Args:
        path: `.onnx` or `.pt2`.
        option: the option that named the file, for errors.

    Returns:
        Its description, and a function from images to probabilities.

    Raises:
        UserError: no such file, a damaged one, or one without our metadata; or onnxruntime is missing.
    """
    if not path.is_file():
        raise UserError(f"{option}: no file {path}")
    open_file = _open_onnx if path.suffix == SUFFIXES["onnx"] else _open_torch
    if open_file is _open_onnx:
        need_onnx("onnxruntime")
    has_digest = check_digest(path, option)
    try:
        entries, predictor = open_file(path)
    except Exception as error:  # each library raises its own
        raise UserError(f"{option}: {path} cannot be read ({short(error)})") from error
    try:
        description = Description.of({name: json.loads(value) for name, value in entries.items()})
    except ValueError as error:
        raise UserError(f"{option}: {path} has no description: was it made by kd-lightning export?") from error
    if not has_digest:
        expect_digest(entries, path, option)
    check_predictor(predictor, description, f"{option}: {path}")
    return description, predictor


def _open_onnx(path: Path) -> tuple[dict[str, str], Predictor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])

    def predictor(image: Tensor) -> Tensor:
        (probabilities,) = session.run(None, {"image": image.numpy()})
        return torch.from_numpy(probabilities)

    return session.get_modelmeta().custom_metadata_map, predictor


def _open_torch(path: Path) -> tuple[dict[str, str], Predictor]:
    entries: dict[str, Any] = {EXTRA_FILE: ""}
    with quiet():
        program = torch.export.load(path, extra_files=entries).module()

    def predictor(image: Tensor) -> Tensor:
        with torch.no_grad():
            return program(image)

    return json.loads(entries[EXTRA_FILE]), predictor


def _refusal(network: nn.Module) -> str:
    return f"export: {type(network).__name__} cannot be exported"


@contextmanager
def short_errors(beginning: str) -> Iterator[None]:
    """Turn an exporter's error into a `UserError` of one line."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # of any kind, some of pages
        raise UserError(f"{beginning} ({short(error)})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of exporters, which are for their own developers."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
