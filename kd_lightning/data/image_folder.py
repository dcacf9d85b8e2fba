"""Data module for a folder of images with a subfolder for each class."""

from collections.abc import Sequence
from typing import Any

from kd_lightning.data.decoded import DecodedDataModule
from kd_lightning.data.image_files import Labelled, find_classes, find_files, how_to_leave_out, readable
from kd_lightning.data.sets import ImageSet, StreamedSet
from kd_lightning.errors import UserError


class ImageFolderDataModule(DecodedDataModule):
    """Images in folders named after their classes: `train/<class>/…`, `val/<class>/…`, `test/<class>/…`, or one tree.

    Links to folders are followed. How images are decoded, cached and streamed: see `DecodedDataModule`.

    Args:
        root: folder of `train/` and other parts, or of the class folders.
        image_size: height and width of the network's input, in pixels, at least 1.
        leave_out_classes: names of class folders to skip in every part (`omit_classes` leaves classes out of training
            alone, by their numbers).
        **kwargs: see `DecodedDataModule`.

    Raises:
        UserError: no such folder, fewer than two classes, a class without training images, unreadable files, or
            fractions that do not add up to 1.
    """

    def __init__(self, root: str, image_size: int = 64, leave_out_classes: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(root, image_size, **kwargs)
        self.leave_out_classes = tuple(leave_out_classes)
        if self.class_names and self.leave_out_classes:
            raise UserError(f"leave_out_classes: found, but {type(self).__name__} has a fixed list of classes")
        self._folders = self.class_names or find_classes(self.root, self.leave_out_classes)
        self.class_names = [readable(name) for name in self._folders]

    def find(self) -> dict[str, Labelled]:
        """List the image files with their classes, by part (`train`, `val`, `test`), or as one part (`all`)."""
        return find_files(self.root, self._folders, self.leave_out_classes)

    def load(self, train: bool) -> ImageSet | StreamedSet:
        """Return one part, memory-mapped or streamed; refuse a training part that lacks a class."""
        part = super().load(train)
        if train and (unseen := set(range(self.num_classes)) - set(part.label[~self._val].tolist())):
            names = [self.class_names[number] for number in sorted(unseen)]
            raise UserError(
                f"root: no training image of {', '.join(names)} in {self.root}, at least 1 of each class expected; "
                f"add some, or go on without: {how_to_leave_out(names)}"
            )
        return part
