"""Files that run without this project: ONNX and `torch.export`, written and opened again.

Either takes images, uint8 (B, *stored_shape), and gives probabilities, float32 (B, classes), for any B. Beside that it
says what it is (`metadata`): in ONNX's metadata_props, and in `metadata.json` among a `.pt2`'s extra files.
"""

import importlib
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
from kd_lightning.export.probe import Answer, check_answer, short

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
"""Of the files, by the names of their formats."""

EXTRA_FILE = "metadata.json"

BATCH_SHAPES = ({0: Dim("batch")},)
"""Of the one input: any number of images."""

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

NOISY = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch.fx", "root")


def need_packages(*names: str) -> None:
    """See that packages are there which only some need.

    Raises:
        UserError: one is not.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f'{name} is not installed, which ONNX files need: pip install "kd-lightning[export]", here '
                'pip install -e ".[export]"; or --format torch, which needs nothing more'
            ) from error


def metadata(description: Description, network: str, checkpoint: str = "") -> dict[str, str]:
    """What an exported file says of itself, each value in JSON.

    Args:
        description: of images and classes.
        network: the name of its class.
        checkpoint: SHA-256 of the checkpoint's file that it was made of; empty for none.
    """
    channels, height, width = description.stored_shape
    said = {
        **description.plain(),
        "input": f"uint8 (batch, {channels}, {height}, {width}), {'RGB' if channels == 3 else 'grey'}, 0 to 255",
        "output": f"probabilities, float32 (batch, {len(description.class_names)}), in the order of class_names",
        "network": network,
        "kd_lightning": __version__,
        "checkpoint_sha256": checkpoint,
        KEY: "SHA-256 of all other bytes of this file",
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in said.items()}


def trace(classifier: ImageClassifier, description: Description) -> ExportedProgram:
    """Turn a classifier into a program of tensor operations, for any number of images.

    Raises:
        UserError: the exporter cannot take its network.
    """
    image = torch.zeros(2, *description.stored_shape, dtype=torch.uint8)
    with told(_cannot_be(classifier.network)), quiet():
        program = torch.export.export(classifier, (image,), dynamic_shapes=BATCH_SHAPES)
    for node in program.graph.nodes:  # which would say in what folders its maker keeps the sources
        node.meta.pop("stack_trace", None)
    return program


def write_torch(program: ExportedProgram, said: dict[str, str], path: Path) -> None:
    """Write a `.pt2`."""
    content = io.BytesIO()
    with quiet():
        torch.export.save(program, content, extra_files={EXTRA_FILE: json.dumps(said)})
    path.write_bytes(content.getbuffer())


def write_onnx(program: ExportedProgram, said: dict[str, str], network: nn.Module, path: Path) -> None:
    """Write an ONNX file, weights and all.

    Raises:
        UserError: a package is missing, or ONNX has no word for an operation of the network.
    """
    need_packages(*ONNX_PACKAGES)
    with told(_cannot_be(network)), quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes=BATCH_SHAPES,
        )
        assert made is not None  # it is where dynamo is
        made.model.metadata_props.update(said)
        made.save(path, external_data=False)


def open_exported(path: Path, option: str) -> tuple[Description, Answer]:
    """Open a file that `write_onnx` or `write_torch` wrote, once its digest was compared.

    An ONNX file is data. A `.pt2` is a program: torch runs what is in it.

    Args:
        path: `.onnx` or `.pt2`.
        option: what the user set it with, for errors.

    Returns:
        What it reads and says, and itself as a function.

    Raises:
        UserError: no such file, a damaged one, or one without our metadata; or onnxruntime is missing.
    """
    if not path.is_file():
        raise UserError(f"{option}: no file {path}")
    open_file = _open_onnx if path.suffix == SUFFIXES["onnx"] else _open_torch
    if open_file is _open_onnx:
        need_packages("onnxruntime")
    has_digest = check_digest(path, option)
    try:
        said, answer = open_file(path)
    except Exception as error:  # each library has its own
        raise UserError(f"{option}: {path} cannot be read ({short(error)})") from error
    try:
        description = Description.of({name: json.loads(value) for name, value in said.items()})
    except ValueError as error:
        raise UserError(f"{option}: {path} does not say what it reads: was it made by kd-lightning export?") from error
    if not has_digest:
        expect_digest(said, path, option)
    check_answer(answer, description, f"{option}: {path}")
    return description, answer


def _open_onnx(path: Path) -> tuple[dict[str, str], Answer]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])

    def answer(image: Tensor) -> Tensor:
        (probabilities,) = session.run(None, {"image": image.numpy()})
        return torch.from_numpy(probabilities)

    return session.get_modelmeta().custom_metadata_map, answer


def _open_torch(path: Path) -> tuple[dict[str, str], Answer]:
    said: dict[str, Any] = {EXTRA_FILE: ""}
    with quiet():
        program = torch.export.load(path, extra_files=said).module()

    def answer(image: Tensor) -> Tensor:
        with torch.no_grad():
            return program(image)

    return json.loads(said[EXTRA_FILE]), answer


def _cannot_be(network: nn.Module) -> str:
    return f"export: {type(network).__name__} cannot be exported"


@contextmanager
def told(beginning: str) -> Iterator[None]:
    """Make one line of what an exporter says of a network that it cannot take, behind a beginning."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # of any kind, and pages of it
        raise UserError(f"{beginning} ({short(error)})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Let an exporter keep its warnings, which are for its own developers, to itself."""
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
