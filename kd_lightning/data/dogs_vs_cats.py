"""Kaggle's Dogs vs. Cats."""

import re
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from kd_lightning.data.image_files import WHOLE, Labelled
from kd_lightning.data.image_folder import ImageFolderDataModule
from kd_lightning.errors import UserError, one_line
from kd_lightning.utils.atomic_write import temporary_folder
from kd_lightning.utils.progress import progress_bar

PHOTOGRAPH = re.compile(r"(?:train/)?((cat|dog)\.(\d+)\.jpg)")

INNER, OUTER = "train.zip", "dogs-vs-cats.zip"
"""Kaggle's download, `OUTER`, contains the photographs in the archive `INNER`."""


MAX_PHOTOGRAPH_BYTES = 2**26
"""Largest photograph; an archive may declare any size."""

BASE_BYTES, MAX_GROWTH = 2**26, 8
"""The photographs may unpack to `BASE_BYTES` plus `MAX_GROWTH` times the archive, as JPEGs are compressed already."""


class DogsVsCatsDataModule(ImageFolderDataModule):
    """About 25,000 photographs in one flat folder: `train/cat.0.jpg`, …, `train/dog.12499.jpg`.

    Kaggle's own test images have no labels (`unlabelled: data/dogs-vs-cats/test1` distils on them too); the labelled
    ones are split, by default 0.7 / 0.2 / 0.1 as in the source.

    Args:
        root: folder of `train/`, or of Kaggle's `dogs-vs-cats.zip` or `train.zip`, which is unpacked there.
        image_size: height and width of the images, in pixels; by default the source's.
        crop: see `ImageFolderDataModule`; the source stretches images.
        split: training, validation and test fractions; by default the source's.
        **kwargs: see `ImageFolderDataModule`.

    Raises:
        UserError: neither photographs nor archive in `root`, or a damaged archive.

    Source: Elson et al. 2007, Asirra (ACM CCS); Kaggle's competition of 2013.
    """

    class_names = ("cat", "dog")
    default_split = (0.7, 0.2, 0.1)

    def __init__(
        self,
        root: str = "data/dogs-vs-cats",
        image_size: int = 128,
        crop: bool = False,
        split: tuple[float, float, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size=image_size, crop=crop, split=split, **kwargs)

    def prepare_data(self) -> None:
        """Unpack the archive unless there is a folder, then decode."""
        if not (self.root / "train").is_dir():
            self._unpack()
        super().prepare_data()

    def find(self) -> dict[str, Labelled]:
        """List the photographs, cats first, by number; ignore other files."""
        folder = self.root / "train"
        matches = [PHOTOGRAPH.fullmatch(file.name) for file in folder.iterdir()] if folder.is_dir() else []
        found = sorted((self.class_names.index(match[2]), int(match[3]), match[1]) for match in matches if match)
        if len({number for number, _, _ in found}) < len(self.class_names):
            raise UserError(f"root: cat.0.jpg, dog.0.jpg and so on not found in {folder}; name the folder above train/")
        return {WHOLE: [(folder / name, number) for number, _, name in found]}

    def _unpack(self) -> None:
        archive = next((self.root / name for name in (INNER, OUTER) if (self.root / name).is_file()), None)
        if archive is None:
            raise UserError(
                f"root: neither train/ nor {INNER} nor {OUTER} in {self.root}; download them from "
                "kaggle.com/c/dogs-vs-cats, or name the folder with --data.root"
            )
        with ExitStack() as stack:
            try:
                temporary = stack.enter_context(temporary_folder(self.root, "train"))
            except OSError as error:
                raise UserError(f"root: cannot unpack {archive} beside itself ({one_line(error)})") from error
            try:
                with zipfile.ZipFile(archive) as outer:
                    most = BASE_BYTES + MAX_GROWTH * archive.stat().st_size
                    if INNER in outer.namelist():
                        _check_total([outer.getinfo(INNER)], most)
                        with outer.open(INNER) as inside:
                            _take_photographs(inside, temporary, most)
                    else:
                        _take_photographs(archive.open("rb"), temporary, most)
                if not any(temporary.iterdir()):
                    raise UserError(
                        f"root: no cat.0.jpg, dog.0.jpg and so on in {archive}; Kaggle's own archive expected"
                    )
                temporary.chmod(0o755)
                temporary.rename(self.root / "train")
            except (zipfile.BadZipFile, EOFError, zlib.error) as error:
                raise UserError(f"root: {archive} cannot be unpacked ({one_line(error)}); download it anew") from error
            except (OSError, RuntimeError) as error:  # a full disk, a password, or an unknown compression
                raise UserError(f"root: {archive} cannot be unpacked ({one_line(error)})") from error


def _check_total(entries: list[zipfile.ZipInfo], most: int) -> None:
    if (total := sum(entry.file_size for entry in entries)) > most:
        raise UserError(
            f"root: the archive unpacks to {total} bytes, at most {most} expected of its size; is the archive Kaggle's?"
        )


def _take_photographs(archive: IO[bytes], folder: Path, most: int) -> None:
    """Unpack the photographs alone, into one folder; at most `most` bytes."""
    with archive, zipfile.ZipFile(archive) as content:
        named = [(entry, match) for entry in content.infolist() if (match := PHOTOGRAPH.fullmatch(entry.filename))]
        for entry, _ in named:
            if entry.file_size > MAX_PHOTOGRAPH_BYTES:
                raise UserError(
                    f"root: {entry.filename} in the archive has {entry.file_size} bytes, a photograph of at most "
                    f"{MAX_PHOTOGRAPH_BYTES} expected; is the archive Kaggle's?"
                )
        _check_total([entry for entry, _ in named], most)
        for entry, match in progress_bar(named, "unpacking"):
            (folder / match[1]).write_bytes(content.read(entry))
