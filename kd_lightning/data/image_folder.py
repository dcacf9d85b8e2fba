"""Data module for folders of images with a subfolder for each class."""

import logging
from collections.abc import Sequence
from typing import Any

from kd_lightning.data.class_list import read_class_list
from kd_lightning.data.decoded import DecodedDataModule
from kd_lightning.data.image_files import (
    Labelled,
    class_folders,
    find_classes,
    find_files,
    how_to_leave_out,
    readable,
)
from kd_lightning.data.sets import ImageSet, StreamedSet
from kd_lightning.errors import UserError

log = logging.getLogger(__name__)


class ImageFolderDataModule(DecodedDataModule):
    """Images in folders named after their classes: `train/<class>/…`, `val/<class>/…`, `test/<class>/…`, or one tree.

    Links to folders are followed. If there is no `test/`, as in ImageNet's layout, `val/` is tested, with a message.
    How images are decoded, cached and streamed: see `DecodedDataModule`.

    Args:
        root: folder of `train/` and other parts, or of the class folders; or a list of them, which are put together by
            part and by the names of the classes.
        image_size: height and width of the network's input, in pixels, at least 1.
        classes: names of the class folders in the order of the classes' numbers, as a list or as a text file with one
            a line; after a space may follow what to call the class, as in `n01440764 tench`. Other folders are left
            out, with a message. By default all folders, in the order of their names.
        leave_out_classes: names of class folders to skip in every part (`omit_classes` leaves classes out of training
            alone, by their numbers).
        **kwargs: see `DecodedDataModule`.

    Raises:
        UserError: no such folder, fewer than two classes, a class without training images, unreadable files, or
            fractions that do not add up to 1.
    """

    def __init__(
        self,
        root: str | Sequence[str],
        image_size: int = 64,
        classes: str | Sequence[str] | None = None,
        leave_out_classes: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size, **kwargs)
        for name, value in {"classes": classes, "leave_out_classes": leave_out_classes}.items():
            if self.class_names and value:
                raise UserError(f"{name}: found, but {type(self).__name__} has a fixed list of classes")
        if classes and leave_out_classes:
            raise UserError("classes and leave_out_classes: both found, one of them expected")
        self.leave_out_classes = tuple(leave_out_classes)
        if classes:
            self._use_list(classes)
        else:
            self._folders = self.class_names or find_classes(self.roots, self.leave_out_classes, self.unlabelled)
            self.class_names = [readable(name) for name in self._folders]

    def _use_list(self, classes: str | Sequence[str]) -> None:
        """Take the classes from a list; leave out the other folders."""
        folders = {readable(name): name for name in class_folders(self.roots, self.unlabelled)}
        listed = read_class_list(classes, folders)
        self._folders = [folders.get(name, name) for name in listed.folders]
        self.class_names = listed.names
        self.leave_out_classes = tuple(sorted(set(folders) - set(listed.folders)))
        if self.leave_out_classes:
            log.warning(
                f"{self.place}: {len(self.leave_out_classes)} class folders left out, which are not in `classes`"
            )

    def find(self) -> dict[str, Labelled]:
        """List the image files with their classes, by part (`train`, `val`, `test`), or as one part (`all`)."""
        return find_files(self.roots, self._folders, self.leave_out_classes, self.unlabelled)

    def load(self, train: bool) -> ImageSet | StreamedSet:
        """Return one part, memory-mapped or streamed; refuse labelled training images that lack a class."""
        part = super().load(train)
        seen = set(part.label[~self._val].tolist()) if train else set()
        if train and (unseen := set(range(self.num_classes)) - seen) and max(seen, default=0) >= 0:
            names = [self.class_names[number] for number in sorted(unseen)]
            raise UserError(
                f"root: no training image of {', '.join(names)} in {self.place}, at least 1 of each class expected; "
                f"add some, or go on without: {how_to_leave_out(names)}"
            )
        return part
