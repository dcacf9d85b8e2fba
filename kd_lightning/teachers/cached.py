"""A teacher's answers, each worked out once."""

import hashlib
import os
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kd_lightning.checkpoints.file import digest_of
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.atomic_write import whole_file

UNKNOWN = -torch.inf
"""In a place of a table that is not filled. It lies below every logit, so that tables are joined by their maximum."""

TOLERANCE = 0.02
"""How far kept answers may lie from new ones on average, in standard deviations of all that are kept: for rounding."""

COMPARED = 8
"""Pairs that are shown to the teacher again: enough to tell, too few to cost a small student's epoch anything."""


class CachedTeacher:
    """A table of a teacher's logits by (image, view): a pair is shown to the teacher when it is first asked for.

    Because views are finite, the pair says what the teacher sees. That holds as long as nothing else changes the
    images, so the first few known pairs of every epoch are shown again, and must be answered as before.

    Args:
        places: int64 (n,), the images of the training set that are trained on.
        images: how many the whole training set has.
        views: how many each image has.
        classes: logits a pair.
        device: where the table is; it takes `nbytes` there.

    Source: soft labels kept for each crop, Shen and Xing 2021 (FKD, arXiv 2112.01528).
    """

    def __init__(
        self, places: Tensor, images: int, views: int, classes: int, device: torch.device | str = "cpu"
    ) -> None:
        self.table = torch.full((images, views, classes), UNKNOWN, device=device)
        self._rows = self.table.view(-1, classes)
        self._places = places.to(device)
        self._complete = False
        self._to_compare = False
        self._new = False
        self._read_from: Path | None = None

    @staticmethod
    def nbytes(images: int, views: int, classes: int) -> int:
        """Memory that a table takes: float32."""
        return 4 * images * views * classes

    def look_up(self, index: Tensor, view: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
        """Give the logits of a batch; ask the teacher for those alone that are not known.

        Args:
            index: int64 (B,), places in the training set.
            view: int64 (B,).
            ask: which rows of the batch, int64 (n,), to their logits (n, classes).

        Returns:
            float32 (B, classes).

        Raises:
            UserError: the teacher answers otherwise than before: it is random, or there is more to what it sees than
                the view.
        """
        logits = self.table[index, view]
        if self._complete and not self._to_compare:
            return logits
        is_unknown = logits[:, 0] == UNKNOWN
        unknown, known = is_unknown.nonzero().squeeze(1), (~is_unknown).nonzero().squeeze(1)
        if self._to_compare and len(known):
            some = known[:COMPARED]
            self._compare(logits[some], ask(some).float())
        if len(unknown):
            logits[unknown] = ask(unknown).float()
            self.table[index, view] = logits
            self._new = True
        return logits

    def unknown(self) -> tuple[Tensor, Tensor]:
        """The images that are trained on and their views that are not known yet: two of int64 (n,)."""
        place, view = (self.table[self._places, :, 0] == UNKNOWN).nonzero().unbind(1)
        return self._places[place], view

    def _compare(self, kept: Tensor, new: Tensor) -> None:
        spread = self._rows[self._rows[:, 0] != UNKNOWN].std(correction=0)
        if not (kept - new).abs().mean() <= TOLERANCE * spread:
            kept_where = f"in {self._read_from}: remove it, or" if self._read_from else "in this run:"
            raise UserError(
                f"cache_teacher: the teacher answers otherwise to the same image and view than {kept_where} set it to "
                "false where images are changed beyond their views"
            )
        self._to_compare = False

    def end_epoch(self) -> None:
        """Join what the processes have found out, and have the next epoch's first answers compared."""
        if not self._complete:
            self._join()
        self._to_compare = True

    def _join(self) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.table, dist.ReduceOp.MAX)
            self._new = True
        self._complete = not bool((self.table[self._places, :, 0] == UNKNOWN).any())  # in all processes, or in none

    def load(self, file: Path) -> None:
        """Take over the answers that any process finds in its file; a damaged file, or another table's, is a warning.

        All processes are to call this.
        """
        if kept := self._read(file):
            self._rows[kept[0]] = kept[1]
            self._read_from = file
        self._join()
        self._to_compare, self._new = True, False

    def _read(self, file: Path) -> tuple[Tensor, Tensor] | None:
        """The pairs, as rows of the table, and the answers in a file; nothing where there is none, or a wrong one."""
        try:
            if not file.is_file():
                return None
            with safe_open(file, "pt", device=str(self._rows.device)) as kept:
                pair, logits, marks = kept.get_tensor("pair"), kept.get_tensor("logits"), kept.metadata()
            if marks != _marks(file, pair, logits):
                raise ValueError("its checksum does not fit, or it is another table's")
            if logits.shape != (*pair.shape, self._rows.shape[1]) or not 0 <= pair.min() <= pair.max() < len(
                self._rows
            ):
                raise ValueError(f"{len(pair)} answers of shape {tuple(logits.shape)} found")
        except (SafetensorError, OSError, LookupError, ValueError, RuntimeError, TypeError) as error:
            problem = one_line(error)
            warnings.warn(f"{file} holds no answers of this teacher, and is written anew ({problem})", stacklevel=3)
            return None
        return pair, logits

    def save(self, file: Path) -> None:
        """Add what is known to the file, if any of it is new, whole or not at all; what cannot be written is a warning.

        What another run has kept there meanwhile stays. Tables of the checkpoint's earlier weights, which are never
        read again, are removed.
        """
        if not self._new:
            return
        try:
            with FileLock(file.with_name(f".lock-{file.name}")):
                rows = self._rows.clone()
                if theirs := self._read(file):
                    rows[theirs[0]] = torch.where(rows[theirs[0]] == UNKNOWN, theirs[1], rows[theirs[0]])
                rows = rows.cpu()
                pair = (rows[:, 0] != UNKNOWN).nonzero().squeeze(1)
                with whole_file(file) as draft:
                    save_file({"pair": pair, "logits": rows[pair]}, draft, _marks(file, pair, rows[pair]))
        except (OSError, SafetensorError, RuntimeError, UserError) as error:
            warnings.warn(f"{file}: the teacher's answers are not kept ({one_line(error)})", stacklevel=2)
        self._new = False
        _remove_outdated(file)


def _marks(file: Path, pair: Tensor, logits: Tensor) -> dict[str, str]:
    """What is written beside the answers, to tell damage and another table's."""
    digest = hashlib.sha256(pair.cpu().numpy().data)
    digest.update(logits.cpu().contiguous().numpy().data)
    return {"table": file.name, "sha256": digest.hexdigest()}


TABLE_FILE = re.compile(r"(?P<checkpoint>.+)\.answers-(?P<weights>[0-9a-f]{16})-[0-9a-f]{16}\.safetensors")


LONGEST_NAME = 140
"""Bytes of a checkpoint's name that its cache's name has in full. File systems allow 255 for all of a name, which ends
in 54 of the cache's own; its lock file and the temporary file that it is written to have longer names still."""


def table_file(checkpoint: Path, seen: str) -> Path:
    """Name the file, beside the teacher's checkpoint, for the answers of its weights to what is seen so."""
    digests = digest_of(checkpoint)[:16], hashlib.sha256(seen.encode()).hexdigest()[:16]
    return checkpoint.with_name(f"{_shortened(checkpoint.name)}.answers-{'-'.join(digests)}.safetensors")


def _shortened(name: str) -> str:
    """Keep the beginning of a file name that is too long, and a digest of all of it."""
    if len(os.fsencode(name)) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    while len(os.fsencode(name)) > LONGEST_NAME - len(digest) - 1:
        name = name[:-1]
    return f"{name}-{digest}"


def _remove_outdated(file: Path) -> None:
    mine = TABLE_FILE.fullmatch(file.name)
    with suppress(OSError):
        for other in file.parent.iterdir():
            its = TABLE_FILE.fullmatch(other.name)
            if mine and its and its["checkpoint"] == mine["checkpoint"] and its["weights"] != mine["weights"]:
                other.unlink()


def uses_batch_statistics(network: nn.Module) -> bool:
    """Whether its answer to an image depends on the images beside it in evaluation mode too."""
    norms = (module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return any(norm.running_mean is None for norm in norms)
