"""The base of data modules whose images are files: decoded once into a cache, or streamed."""

import hashlib
import logging
import math
import os
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_lightning.data.decode import Decoder, ImageItem
from kd_lightning.data.image_cache import Decoded, decode_all, stamps
from kd_lightning.data.image_files import WHOLE, WITHOUT_LABELS, ImageFiles, Labelled, find_unlabelled, split_files
from kd_lightning.data.module import ClassificationDataModule
from kd_lightning.data.sets import ImageSet, StreamedSet
from kd_lightning.errors import UserError
from kd_lightning.utils.paths import expand, user_cache_folder

log = logging.getLogger(__name__)

MAX_NAMED = 3
"""Unreadable files that an error names; it counts the others."""


class _Reader:
    """Decodes the images of a streamed set in a loader worker."""

    def __init__(self, paths: Sequence[ImageItem], decoder: Decoder) -> None:
        self.paths, self.decoder = paths, decoder

    def __call__(self, place: int) -> Tensor:
        return self.decoder.read(self.paths[place])[0]


class DecodedDataModule(ClassificationDataModule):
    """Base of datasets of image files, which are decoded to one size.

    The files are decoded once, in parallel, into a memory-mapped cache, which is rebuilt when names, sizes or times of
    files change. Sets larger than `cache_limit` are not cached: loader workers decode them in every epoch. All raster
    formats that Pillow decodes itself are read (`kd_lightning.data.decode`), up to 100 million pixels an image. Images
    in another mode (grey among colour, with an alpha channel, CMYK) are converted and counted in one line.

    Each part has a fixed random order in which every prefix has the class proportions of the part; `train_size` keeps
    the first images of it. A subclass defines `find` and `class_names`.

    Args:
        root: folder of the files, or a list of them; nothing is written into it.
        image_size: height and width of the network's input, in pixels, at least 1.
        stored_size: height and width of the decoded images, by default `image_size`. Images are augmented at this
            size and then resized on the device, bilinearly.
        crop: whether to crop the longer side at both ends; otherwise images are stretched.
        grey: use one channel in place of three; `mean` and `std` then need one value.
        split: training, validation and test fractions of a dataset that is not split; the split is stratified and
            random by `split_seed`. One that is split but has no validation part may hold out `val_size` images.
        cache_dir: folder of decoded images, with a subfolder for each `root`; by default the user's cache folder, such
            as `~/.cache/kd_lightning`.
        cache_limit: largest cache of a part, in GiB; a larger part is streamed (set `num_workers`).
        skip_unreadable: skip files that cannot be read, in place of an error before training.
        unlabelled: folder, or list of folders, of images without class, which are trained on beside the labelled ones,
            or alone: by the soft loss, while the hard loss leaves them out. They count in `train_size`, stay whatever
            classes are left out, and are never held out for validation.
        mean: subtracted from pixels in [0, 1]; by default ImageNet's.
        std: divisor after that; by default ImageNet's.
        eval_batch_size: images per step in validation, test and prediction.
        **kwargs: see `ClassificationDataModule`.

    Raises:
        UserError: a class without training images, unreadable files, or fractions that do not add up to 1.
    """

    default_split = (0.8, 0.1, 0.1)
    """Fractions of a dataset that is not split, if `split` is not given."""
    option = "root"
    """The option that names the dataset, for errors."""
    test_part = "test"
    """The part that is tested; `val` if there is no other, as in ImageNet's layout."""

    def __init__(
        self,
        root: str | Sequence[str],
        image_size: int = 64,
        stored_size: int | None = None,
        crop: bool = True,
        grey: bool = False,
        split: tuple[float, float, float] | None = None,
        cache_dir: str | None = None,
        cache_limit: float = 16.0,
        skip_unreadable: bool = False,
        unlabelled: str | Sequence[str] = (),
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        eval_batch_size: int = 250,
        **kwargs: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, eval_batch_size=eval_batch_size, **kwargs)
        for name, size in {"image_size": image_size, "stored_size": stored_size}.items():
            if size is not None and size < 1:
                raise UserError(f"{name}: {size} found, at least 1 pixel expected")
        if split and (min(split) < 0 or not split[0] or abs(sum(split) - 1) > 1e-6):
            raise UserError(f"split: {list(split)} found, three fractions that add up to 1 expected, the first above 0")
        if split and self.val_size:
            raise UserError("split and val_size: both found, one of them expected")
        self.roots = _paths(root, "root")
        if not self.roots:
            raise UserError("root: an empty list found, at least one folder expected")
        self.place = " and ".join(map(str, self.roots))
        self.root = self.roots[0] if len(self.roots) == 1 else Path(os.path.commonpath(self.roots))
        self.unlabelled = _paths(unlabelled, "unlabelled")
        self.has_unlabelled = bool(self.unlabelled)
        self.split = split
        self.decoder = Decoder(channels=1 if grey else 3, size=stored_size or image_size, crop=crop)
        self.image_shape = (self.decoder.channels, image_size, image_size)
        self.cache_dir = expand(cache_dir, "cache_dir") if cache_dir else None
        self.cache_limit = cache_limit
        self.skip_unreadable = skip_unreadable
        self._logged: set[str] = set()
        self._digests_by_part: dict[bool, np.ndarray[Any, np.dtype[np.uint8]]] = {}

    @abstractmethod
    def find(self) -> dict[str, Labelled]:
        """List the image files with their class numbers, by part (`train`, `val`, `test`), or as one part (`all`)."""

    @cached_property
    def _found(self) -> dict[str, Labelled]:
        found = dict(self.find())
        if self.split and WHOLE not in found:
            raise UserError(
                f"split: found, but {self.place} has a train/ folder or split, and with it a split of its own"
            )
        if "val" in found and "test" not in found:
            self.test_part = "val"
            found["test"] = found.pop("val") if self.val_size else found["val"]
        if self.val_size and (WHOLE in found or "val" in found):
            raise UserError(f"val_size: {self.val_size} found, but {self.place} is split already, or by `split`")
        return found | {WITHOUT_LABELS: find_unlabelled(self.unlabelled)}

    @cached_property
    def _files(self) -> dict[bool, ImageFiles]:
        """The training and validation files (True) and the test files (False)."""
        return self._split_files(self._found)

    def _split_files(self, found: dict[str, Labelled]) -> dict[bool, ImageFiles]:
        return split_files(found, self.split or self.default_split, self.split_seed)

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the decoded images."""
        return self.decoder.shape

    @property
    def fingerprint(self) -> str:
        """Digest of the names, sizes and times of all files, on which the split depends."""
        return stamps([path for files in self._files.values() for path in files.paths])

    def state_dict(self) -> dict[str, Any]:
        """Return the position in training, and which files a tree without `train/` was split from."""
        return {**super().state_dict(), **({"files": self._names_digest} if WHOLE in self._found else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position in training.

        Raises:
            UserError: a tree without `train/` has other files or another split than in the checkpoint, whose training
                images may be test images here.
        """
        super().load_state_dict(state_dict)
        if "files" in state_dict and (WHOLE not in self._found or state_dict["files"] != self._names_digest):
            raise UserError(
                f"{self.option}: the files in {self.place}, or how they are split, are not those that the checkpoint "
                "was trained on: its training images may be among the test images; train anew, or split into train/ "
                "and test/"
            )

    @property
    def _names_digest(self) -> str:
        """Digest of the labelled files in `root` and their parts."""
        labelled = {part: files for part, files in self._found.items() if part != WITHOUT_LABELS}
        digest = hashlib.sha256()
        for train, files in self._split_files(labelled).items():
            for path, val in zip(files.paths, files.val.tolist(), strict=True):
                digest.update(os.fsencode(self._name_of(path)) + f"\0{train}{val}\n".encode())
        return digest.hexdigest()

    def _name_of(self, file: Any) -> str:
        """Return the name of a file below `root`, with forward slashes."""
        is_below = isinstance(file, Path) and file.is_relative_to(self.root)
        return file.relative_to(self.root).as_posix() if is_below else str(file)

    def prepare_data(self) -> None:
        """Decode all files, unless they are cached."""
        self.check_normalisation()
        for train in (True, False):
            self._decoded(train)

    def part_digests(self) -> dict[str, list[bytes]]:
        """Return the digests of decoded parts, streamed or not; decode no part for this alone."""
        found = super().part_digests() if True in self._digests_by_part else {}
        if self.test_part == "val" and not self.val_size:  # they are the same images
            found.pop("validation" if False in self._batch_makers else "test", None)
        return found

    def _digests(self, part: ImageSet | StreamedSet | None, train: bool) -> list[bytes]:
        known = self._digests_by_part.get(train)
        return super()._digests(part, train) if known is None else [digest.tobytes() for digest in known]

    def load(self, train: bool) -> ImageSet | StreamedSet:
        """Return one part, memory-mapped or streamed."""
        files, image = self._decoded(train)
        if files.val.all():  # of none, too
            part = "training" if train else "test"
            found = ", ".join(name for name, each in self._found.items() if each)
            expected = "a training and a test part expected (folders train/ and test/), or a split"
            raise UserError(f"{self.option}: no {part} images in {self.place} (found: {found}); {expected}")
        if train:
            self._val = files.val
        else:
            self._say_what_is_tested()
            self.test_names = [self._name_of(path) for path in files.paths]
        if image is not None:
            return ImageSet(image, files.label)
        digest = f"{stamps(files.paths)} {self.decoder}"
        return StreamedSet(_Reader(files.paths, self.decoder), files.label, digest)

    def _say_what_is_tested(self) -> None:
        is_first = getattr(self.trainer, "global_rank", 0) == 0 and "test" not in self._logged
        if self.test_part == "val" and is_first:
            self._logged.add("test")
            chosen = "" if self.val_size else ", by which best.ckpt is chosen"
            log.warning(f"{self.place}: no test part found: a test measures the images of val/{chosen}")

    def held_out(self, label: Tensor) -> Tensor:
        """Return the validation files, or `val_size` random images."""
        return super().held_out(label) if self.val_size else self._val.nonzero().squeeze(1)

    def _decoded(self, train: bool) -> tuple[ImageFiles, Tensor | None]:
        """Return the readable files of a part, and their images unless they are streamed."""
        files, part = self._files[train], "train" if train else "test"
        keep = len(files.paths) * math.prod(self.decoder.shape) <= self.cache_limit * 2**30
        decoded = decode_all(files.paths, self.decoder, self._cache_folder, part, keep)
        if decoded.unreadable:
            self._refuse_or_skip(files, decoded)
        if decoded.converted and part not in self._logged:
            self._logged.add(part)
            kinds = ", ".join(f"{count} {mode}" for mode, count in sorted(decoded.converted.items()))
            log.warning(f"{self.place}: {part}: images converted to {self.decoder.mode}: {kinds}")
        self._digests_by_part[train] = decoded.digests
        readable = [place for place in range(len(files.paths)) if place not in decoded.unreadable]
        return files.at(torch.tensor(readable, dtype=torch.int64)), decoded.image

    def _refuse_or_skip(self, files: ImageFiles, decoded: Decoded) -> None:
        named = [f"{files.paths[place]} ({problem})" for place, problem in list(decoded.unreadable.items())[:MAX_NAMED]]
        more = len(decoded.unreadable) - len(named)
        found = f"{len(decoded.unreadable)} of {len(files.paths)} images cannot be read: " + ", ".join(named)
        found += f" and {more} more" if more else ""
        if not self.skip_unreadable:
            raise UserError(f"{self.option}: {found}; repair or remove them, or skip them: --data.skip_unreadable true")
        if found not in self._logged:
            self._logged.add(found)
            log.warning(f"{self.place}: skipped: {found}")

    @property
    def _cache_folder(self) -> Path:
        # Several datasets may share a cache folder.
        own = hashlib.sha256(self.cache_key()).hexdigest()[:16]
        return (Path(self.cache_dir) if self.cache_dir else user_cache_folder("cache_dir")) / own

    def cache_key(self) -> bytes:
        """Return what tells this dataset's caches from others': where its files are."""
        return b"\0".join(os.fsencode(root.resolve()) for root in self.roots)


def _paths(given: str | Sequence[str], option: str) -> list[Path]:
    """Return one path or several, expanded; several as absolute paths, whose common folder can be told."""
    if isinstance(given, (str, os.PathLike)):
        return [Path(expand(given, option))]
    paths = [Path(expand(each, option)) for each in given]
    return [path.absolute() for path in paths] if len(paths) > 1 else paths
