"""A teacher's answers, each worked out once."""

import hashlib
import tempfile
import warnings
from collections.abc import Callable
from glob import escape
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kd_lightning.errors import UserError

UNKNOWN = -torch.inf
"""In a place of a table that is not filled. It lies below every logit, so that tables are joined by their maximum."""

TOLERANCE = 0.05
"""How far, in standard deviations of the logits, kept answers may lie from new ones; rounding stays well below."""


class CachedTeacher:
    """A table of a teacher's logits by (image, view): a pair is shown to the teacher when it is first asked for.

    It is exact, because views are finite: the pair says what the teacher saw. The first pairs of every epoch that are
    known are shown again, and must be answered as before.

    Args:
        images: how many the whole training set has.
        views: how many each image has.
        classes: logits a pair.
        device: where the table is; it takes `nbytes` there.

    Source: soft labels kept for each crop, Shen and Xing 2021 (FKD, arXiv 2112.01528).
    """

    def __init__(self, images: int, views: int, classes: int, device: torch.device | str = "cpu") -> None:
        self.table = torch.full((images, views, classes), UNKNOWN, device=device)
        self._rows = self.table.view(-1, classes)
        self._complete = False
        self._to_compare = False
        self._new = False

    @staticmethod
    def nbytes(images: int, views: int, classes: int) -> int:
        """Memory that a table takes: float32."""
        return 4 * images * views * classes

    def look_up(self, index: Tensor, view: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
        """Give the logits of a batch; ask the teacher for those alone that are not known.

        Args:
            index: int64 (B,), places in the training set.
            view: int64 (B,).
            ask: which rows of the batch, bool (B,), to their logits (rows, classes).

        Returns:
            float32 (B, classes).

        Raises:
            UserError: the teacher answers otherwise than before: what it sees is more than its view, or it is random.
        """
        logits = self.table[index, view]
        if self._complete and not self._to_compare:
            return logits
        unknown = logits[:, 0] == UNKNOWN
        if self._to_compare and not unknown.all():
            self._compare(logits[~unknown], ask(~unknown).float())
        if unknown.any():
            logits[unknown] = ask(unknown).float()
            self.table[index, view] = logits
            self._new = True
        return logits

    def _compare(self, kept: Tensor, new: Tensor) -> None:
        if not (kept - new).abs().mean() <= TOLERANCE * kept.std(correction=0):
            raise UserError(
                "cache_teacher: the teacher answers otherwise to the same image and view, so there is more to what it "
                "sees than the view, or it is random; false expected"
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
        self._complete = not bool((self._rows[:, 0] == UNKNOWN).any())  # in all processes, or in none

    def load(self, file: Path) -> None:
        """Take over the answers that any process finds in its file; a damaged file, or another table's, is a warning.

        All processes are to call this.
        """
        if file.is_file():
            try:
                self._read(file)
            except (SafetensorError, OSError, LookupError, ValueError, RuntimeError) as error:
                warnings.warn(f"{file} holds no answers of this teacher, and is written anew ({error})", stacklevel=2)
        self._join()
        self._to_compare = True

    def _read(self, file: Path) -> None:
        kept = load_file(file)
        pair, logits = kept["pair"], kept["logits"]
        if logits.shape != (*pair.shape, self._rows.shape[1]) or not 0 <= pair.min() <= pair.max() < len(self._rows):
            raise ValueError(f"{len(pair)} answers of shape {tuple(logits.shape)} found")
        self._rows[pair.to(self._rows.device)] = logits.to(self._rows.device)

    def save(self, file: Path) -> None:
        """Write what is known, if any of it is new, whole or not at all; a folder that cannot be written is a warning.

        Tables of the same checkpoint with other weights, which are never read again, are removed.
        """
        if not self._new:
            return
        pair = (self._rows[:, 0] != UNKNOWN).nonzero().squeeze(1)
        try:
            with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
                written = Path(folder) / file.name
                save_file({"pair": pair.cpu(), "logits": self._rows[pair].cpu()}, written)
                written.replace(file)
            checkpoint, weights, _ = file.name.rsplit("-", 2)
            for other in file.parent.glob(f"{escape(checkpoint)}-*"):
                if not other.name.startswith(f"{checkpoint}-{weights}-"):
                    other.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"{file}: the teacher's answers are not kept ({error})", stacklevel=2)
        self._new = False


def table_file(checkpoint: Path, network: nn.Module, shown: str) -> Path:
    """Name the file, beside the teacher's checkpoint, for the answers of these weights to what is shown so."""
    weights = hashlib.sha256(repr(network).encode())
    for name, tensor in network.state_dict().items():
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    digests = weights.hexdigest()[:16], hashlib.sha256(shown.encode()).hexdigest()[:16]
    return checkpoint.with_name(f"{checkpoint.stem}.answers-{'-'.join(digests)}.safetensors")


def uses_batch_statistics(network: nn.Module) -> bool:
    """Whether its answer to an image depends on the images beside it in evaluation mode too."""
    norms = (module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return any(norm.running_mean is None for norm in norms)
