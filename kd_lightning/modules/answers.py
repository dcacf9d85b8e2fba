"""Whether the teacher's answers are kept in a run, and where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_lightning.batch import data_of
from kd_lightning.checkpoints.file import digest_of
from kd_lightning.errors import UserError
from kd_lightning.teachers import CachedTeacher, parts_of, resolve_checkpoint, table_file, uses_batch_statistics

if TYPE_CHECKING:
    from kd_lightning.modules.distill import DistillModule

CACHE_BYTES = 2 * 2**30
"""A table of the teacher's answers up to this size is kept without being asked for."""


def open_table(module: DistillModule) -> tuple[CachedTeacher, Path | None] | None:
    """Make the table of a module's teacher's answers, with those that runs before have left in its file.

    Returns:
        The table and its file; None where the teacher is to be asked anew every time. A teacher without a file has
        none for its table either.

    Raises:
        UserError: a table is asked for, but would not be exact.
    """
    if module.cache_teacher is False or (module.shard_teacher and module.cache_teacher is None):
        return None
    data, reason = data_of(module.trainer), _why_not(module)
    digest = "" if reason else data.shown_digest()
    if not digest:
        if module.cache_teacher:
            raise UserError(f"cache_teacher: {reason or 'streamed images are not known beforehand'}; false expected")
        return None
    table = CachedTeacher(data.train_positions, *_size(data), module.device)
    if module.teacher_ckpt is None:
        return table, None
    seen = f"{digest} {module.teacher_form} {module.trainer.precision} {module.device.type}"
    parts = parts_of(module.teacher.network, module.teacher_ckpt)
    first, *others = (resolve_checkpoint(path, "teacher_ckpt") for _, path in parts)
    seen += "".join(f" {digest_of(other)}" for other in others)
    if any(module.class_orders):  # the cached logits are in the data's order
        seen += f" {module.class_orders}"
    file = table_file(first, seen)
    table.load(file)
    return table, file


def _why_not(module: DistillModule) -> str:
    """Why the teacher has to be asked anew every time; empty if it need not."""
    data = data_of(module.trainer)
    if module.features:
        return "features take the teacher's inner layers"
    if uses_batch_statistics(module.teacher.network):
        return "what the teacher's batch norm makes of an image depends on the images beside it"
    if not hasattr(data, "shown_digest"):
        return "the data does not say what an image and a view show"
    size = CachedTeacher.nbytes(*_size(data))
    if size > CACHE_BYTES and not module.cache_teacher:
        return f"{size / 2**30:.1f} GiB of answers"
    return ""


def _size(data: Any) -> tuple[int, int, int]:
    """Images, views and classes."""
    return data.train_count, data.views.count, data.num_classes
