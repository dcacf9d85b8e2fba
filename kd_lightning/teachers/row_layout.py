"""A row of the cache: a teacher's logits for one image and view, and what its layers give."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class RowLayout:
    """Lay the teacher's logits and the outputs of its layers side by side, as the numbers of one row.

    Args:
        classes: number of logits; 0 for a teacher without classes.
        shapes: of each layer's output for one image, by the layer's name.
    """

    def __init__(self, classes: int, shapes: Mapping[str, torch.Size]) -> None:
        self._classes, self._shapes = classes, dict(shapes)
        self._dtypes: dict[str, torch.dtype] = {}

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self._classes + sum(map(math.prod, self._shapes.values()))

    def pack(self, logits: Tensor | None, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return rows, float32 (B, width), of logits (B, classes) and outputs of layers (B, …)."""
        parts = [] if logits is None else [logits.float()]
        for name in self._shapes:
            self._dtypes[name] = outputs[name].dtype
            parts.append(outputs[name].flatten(1).float())
        return torch.cat(parts, dim=1)

    def unpack(self, rows: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return the logits and the outputs of rows, the latter in the precision in which they were computed."""
        logits, *outputs = rows.split([self._classes, *map(math.prod, self._shapes.values())], dim=1)
        layers = {
            name: output.view(-1, *shape).to(self._dtypes.get(name, torch.float32))
            for (name, shape), output in zip(self._shapes.items(), outputs, strict=True)
        }
        return (logits if self._classes else None), layers
