"""A cache of a teacher's outputs by image and augmented view, in memory and in a file."""

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kd_lightning.checkpoints.file import digest_of
from kd_lightning.errors import UserError, one_line
from kd_lightning.teachers.cache_file import cache_file, mark_used, remove_outdated, user_cache_file
from kd_lightning.utils.atomic_write import atomic_write
from kd_lightning.utils.progress import progress_bar

MAX_DEFAULT_BYTES = 2 * 2**30
"""Largest cache that a run creates unless `cache_teacher` requires one."""

UNKNOWN = -torch.inf
"""Marks a pair that is not cached. It lies below every logit, so that processes merge their caches by the maximum."""

TOLERANCE = 0.02
"""Largest mean difference, due to rounding, between cached and new logits, in standard deviations of the cache."""

COMPARED_PAIRS = 8
"""Cached pairs that are computed again in every epoch: enough to detect a change, too few to take noticeable time."""


class LogitCache:
    """Teacher logits, and outputs of layers beside them, by (image, view), each pair computed once.

    Views are finite, so a pair determines what the teacher sees, unless images are changed in other ways. To detect
    that, the first few cached pairs of every epoch are computed again and compared.

    Args:
        train_index: int64 (n,), the training images, as indices into the whole training set.
        images: size of the whole training set.
        views: number of views of each image.
        width: number of logits, and further outputs, of each pair.
        device: where the cache lies; it takes `nbytes` there.
        file: where `load` and `save` keep it; None: in memory alone.

    Source: soft labels stored for each crop, Shen and Xing 2021 (FKD, arXiv 2112.01528).
    """

    def __init__(
        self,
        train_index: Tensor,
        images: int,
        views: int,
        width: int,
        device: torch.device | str = "cpu",
        file: Path | None = None,
    ) -> None:
        self.table = torch.full((images, views, width), UNKNOWN, device=device)
        self.file = file
        self._rows = self.table.view(-1, width)
        self._train_index = train_index.to(device)
        self._is_complete = False
        self._compare_next = False
        self._has_new = False
        self._is_from_file = False

    @staticmethod
    def nbytes(images: int, views: int, width: int) -> int:
        """Return the size of a cache in memory, which holds float32."""
        return 4 * images * views * width

    @classmethod
    def open(
        cls,
        data: Any,
        network: nn.Module,
        files: Sequence[Path],
        width: int,
        *,
        key: str,
        device: torch.device,
        required: bool | None,
        obstacle: str = "",
    ) -> Self | None:
        """Create the cache of a run and load the logits that earlier runs saved.

        Args:
            data: the run's data module.
            network: the teacher.
            files: the teacher's weights; the cache is saved beside the first one, or, if there are none, in the user's
                cache folder under a digest of the network's weights.
            width: number of outputs of each image and view.
            key: what else the logits depend on, such as the precision.
            device: where the cache lies.
            required: True: the cache must be exact, whatever its size; None: create it where it is exact and takes at
                most `MAX_DEFAULT_BYTES`; False: create none.
            obstacle: why the run cannot use a cache; empty if it can.

        Raises:
            UserError: a cache is required, but would not be exact.
        """
        if required is False:
            return None
        obstacle = obstacle or _obstacle(data, network, width, None if required else MAX_DEFAULT_BYTES)
        digest = "" if obstacle else data.input_digest()
        if not digest:
            obstacle = obstacle or "streamed images have no digest"
            if required:
                raise UserError(f"cache_teacher: {obstacle}; false expected")
            rank_zero_info(f"the teacher's logits are not cached: {obstacle}")
            return None
        # The file's name has the digest of the first file of weights; the others belong to the key.
        key = " ".join([digest, key, *map(digest_of, files[1:])])
        file = cache_file(files[0], key) if files else user_cache_file(network, key)
        cache = cls(data.train_positions, data.train_count, data.view_count, width, device, file)
        if file:
            cache.load()
        return cache

    def look_up(self, index: Tensor, view: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the logits of a batch; compute those that are missing.

        Args:
            index: int64 (B,), the images.
            view: int64 (B,), their views.
            compute: rows of the batch, int64 (n,), to their outputs (n, width).

        Returns:
            float32 (B, width).

        Raises:
            UserError: new logits differ from cached ones: the teacher is random, or images are changed beyond their
                views.
        """
        logits = self.table[index, view]
        if self._is_complete and not self._compare_next:
            return logits
        is_unknown = logits[:, 0] == UNKNOWN
        unknown, known = is_unknown.nonzero().squeeze(1), (~is_unknown).nonzero().squeeze(1)
        if self._compare_next and len(known):
            some = known[:COMPARED_PAIRS]
            self._compare(logits[some], compute(some).float())
        if len(unknown):
            logits[unknown] = compute(unknown).float()
            self.table[index, view] = logits
            self._has_new = True
        return logits

    def missing(self) -> tuple[Tensor, Tensor]:
        """Return the pairs of training images and views that are not cached: index (n,) and view (n,), int64."""
        row, view = (self.table[self._train_index, :, 0] == UNKNOWN).nonzero().unbind(1)
        return self._train_index[row], view

    def fill(self, compute: Callable[[Tensor, Tensor], Tensor], batch_size: int, rank: int, processes: int) -> None:
        """Compute all missing logits and save them; all processes of a run call this, each computes its share.

        Args:
            compute: indices and views, both int64 (n,), to outputs (n, width).
            batch_size: the largest n.
            rank: number of this process.
            processes: number of all processes.
        """
        index, view = self.missing()
        # Each process takes the same number of pairs, as they may compute together: the last one may come twice.
        share = math.ceil(len(index) / processes)
        own = (torch.arange(share) * processes + rank).remainder(max(1, len(index)))

        def add(index: Tensor, view: Tensor) -> None:
            self.look_up(index, view, lambda rows: compute(index[rows], view[rows]))

        for some in progress_bar(own.split(batch_size), "computing the teacher's logits", shown=rank == 0):
            add(index[some], view[some])
        self.end_epoch()
        if rank == 0:
            self.save()

    def end_epoch(self) -> None:
        """Merge the caches of all processes, and compare cached logits again in the next epoch."""
        if not self._is_complete:
            self._merge()
        self._compare_next = True

    def load(self) -> None:
        """Load the file; warn if it is damaged or of another cache. All processes of a run call this."""
        if saved := self._read():
            self._rows[saved[0]] = saved[1]
            mark_used(self.file)
            self._is_from_file = True
        self._merge()
        self._compare_next, self._has_new = True, False

    def save(self) -> None:
        """Add new logits to the file in one atomic write; warn if it cannot be written.

        Logits that other runs have saved meanwhile are kept. Caches of earlier weights of the checkpoint are removed.
        """
        file = self.file
        if not (file and self._has_new):
            return
        try:
            with FileLock(file.with_name(f".lock-{file.name}")):
                rows = self._rows.clone()
                if saved := self._read():
                    rows[saved[0]] = torch.where(rows[saved[0]] == UNKNOWN, saved[1], rows[saved[0]])
                rows = rows.cpu()
                pair = (rows[:, 0] != UNKNOWN).nonzero().squeeze(1)
                with atomic_write(file) as temporary:
                    save_file({"pair": pair, "logits": rows[pair]}, temporary, _metadata(file, pair, rows[pair]))
        except (OSError, SafetensorError, RuntimeError, UserError) as error:
            warnings.warn(f"{file}: teacher logits cannot be saved ({one_line(error)})", stacklevel=2)
        self._has_new = False
        remove_outdated(file)

    def _compare(self, cached: Tensor, new: Tensor) -> None:
        spread = self._rows[self._rows[:, 0] != UNKNOWN].std(correction=0)
        if not (cached - new).abs().mean() <= TOLERANCE * spread:
            where = f"in {self.file}: remove the file, or" if self._is_from_file else "in this run:"
            raise UserError(
                f"cache_teacher: the teacher's logits differ from those cached for the same image and view {where} set "
                "cache_teacher to false where images are changed beyond their views"
            )
        self._compare_next = False

    def _merge(self) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.table, dist.ReduceOp.MAX)
            self._has_new = True
        self._is_complete = not len(self.missing()[0])  # in all processes, or in none

    def _read(self) -> tuple[Tensor, Tensor] | None:
        """Read rows of the table, int64 (n,), and their outputs (n, width); None without a valid file."""
        file = self.file
        try:
            if not (file and file.is_file()):
                return None
            with safe_open(file, "pt", device=str(self._rows.device)) as saved:
                pair, logits, metadata = saved.get_tensor("pair"), saved.get_tensor("logits"), saved.metadata()
            if metadata != _metadata(file, pair, logits):
                raise ValueError("its checksum does not match, or it belongs to another cache")
            count, width = self._rows.shape
            if logits.shape != (*pair.shape, width) or not 0 <= pair.min() <= pair.max() < count:
                raise ValueError(f"{len(pair)} pairs with logits of shape {tuple(logits.shape)} found")
        except (SafetensorError, OSError, LookupError, ValueError, RuntimeError, TypeError) as error:
            problem = one_line(error)
            warnings.warn(f"{file}: no logits of this teacher found, the file is rebuilt ({problem})", stacklevel=3)
            return None
        return pair, logits


def uses_batch_statistics(network: nn.Module) -> bool:
    """Return whether a network's batch norm uses the statistics of each batch in evaluation mode too."""
    norms = (module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return any(norm.running_mean is None for norm in norms)


def _obstacle(data: Any, network: nn.Module, width: int, max_bytes: int | None) -> str:
    """Return why the outputs of a network on some data cannot be cached; empty if they can."""
    if uses_batch_statistics(network):
        return "the teacher's batch norm uses the statistics of each batch"
    if not hasattr(data, "input_digest"):
        return "the data does not identify its images and views"
    if data.view_count is None:
        return "augmented views are new in every epoch (count: null)"
    size = LogitCache.nbytes(data.train_count, data.view_count, width)
    return f"{size / 2**30:.1f} GiB of outputs" if max_bytes is not None and size > max_bytes else ""


def _metadata(file: Path, pair: Tensor, logits: Tensor) -> dict[str, str]:
    """Return the file's name and a checksum, which tell damage and files of another cache."""
    digest = hashlib.sha256(pair.cpu().numpy().data)
    digest.update(logits.cpu().contiguous().numpy().data)
    return {"file": file.name, "sha256": digest.hexdigest()}
