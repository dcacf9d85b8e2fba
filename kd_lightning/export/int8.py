"""Quantise an ONNX file to 8 bits with onnxruntime."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from kd_lightning.errors import UserError
from kd_lightning.export.digest import ONNX_KEY
from kd_lightning.export.formats import ONNX_PACKAGES, need_onnx, quiet, short_errors

CALIBRATION_IMAGES = 512
"""Training images for measuring the ranges of activations."""

LAYERS = ["Conv", "Gemm", "MatMul"]
"""ONNX operations with weights."""


def write_int8(source: Path, images: Iterable[Tensor], path: Path) -> None:
    """Quantise weights to int8 by channel, and activations to uint8 in ranges measured on images.

    Weights use 7 of the 8 bits: CPUs without VNNI add pairs of products in 16 bits, which 8 bits would overflow. The
    last layer stays in float32, as differences between classes are small there (see `models.Logits`).

    Args:
        source: the float32 ONNX file.
        images: uint8 batches (B, C, H, W) of training images.
        path: the file to write.

    Raises:
        UserError: a package is missing, or the network has no layer that can be quantised.
    """
    need_onnx(*ONNX_PACKAGES)
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch.numpy()}

    with tempfile.TemporaryDirectory() as folder, short_errors("int8: the network cannot be quantised"), quiet():
        prepared = Path(folder, "prepared.onnx")
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # torch's exporter writes all shapes
        layers = [node.name for node in onnx.load(prepared).graph.node if node.op_type in LAYERS]
        if len(layers) < 2:
            raise UserError(f"int8: {len(layers)} layers found, at least 2 expected: the last stays in float32")
        quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[layers[-1]],
            op_types_to_quantize=LAYERS,
        )
        made = onnx.load(path)
        del made.metadata_props[:]
        metadata = onnx.load(source, load_external_data=False).metadata_props  # dropped by quantisation
        made.metadata_props.extend(entry for entry in metadata if entry.key != ONNX_KEY)  # the source's digest
        onnx.save(made, path)
