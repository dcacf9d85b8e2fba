"""Load the weights of a teacher, or of each member of an ensemble."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from kd_lightning.checkpoints.description import (
    KEY,
    Description,
    compare,
    describe,
    differences,
)
from kd_lightning.checkpoints.weights import load_weights, resolve_checkpoint
from kd_lightning.errors import UserError
from kd_lightning.teachers.classes import ClassOrder, match_classes, read_names, stated_names
from kd_lightning.teachers.ensemble import networks_of, parts_of
from kd_lightning.teachers.own_input import InputFormat, OwnInput, read_trained, without_own_input

OPTION = "teacher_ckpt"

REMEDY = " wrap the network in kd_lightning.OwnInput, name its classes as the data does (teacher_classes),"
"""What a teacher of other data may need."""


class TeacherPart(NamedTuple):
    """A network of a teacher, with the description in its file.

    Attributes:
        network: a member of an ensemble, or the teacher itself.
        file: of its weights; None for a network as it was built.
        trained: what it was trained on, as its file describes it; None if that does not.
        class_names: of its outputs, as the user or its file names them; empty if neither does.
    """

    network: nn.Module
    file: Path | None = None
    trained: Description | None = None
    class_names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Option and file, for messages."""
        return (
            f"{OPTION}: {self.file or f'none (the {type(without_own_input(self.network)).__name__} as it was built)'}"
        )

    def prepare(self, data: Any) -> None:
        """Prepare the `OwnInput` in the network, if any, for the data of a run."""
        for module in self.network.modules():
            if isinstance(module, OwnInput):
                module.prepare(data, self.trained)

    def class_order(self, data: Any) -> ClassOrder | None:
        """Compare what the network was trained on with the data of a run, and find the data's classes in its outputs.

        Args:
            data: a data module; one without a description fits any network.

        Returns:
            Which outputs are the data's classes; None if they are the same, or not known.

        Raises:
            UserError: a class of the data is unknown to the network; another image shape or another normalisation.
        """
        names, shown = self.class_names, describe(data)
        if shown and self.trained:
            trained = replace(self.trained, class_names=names)
            own = isinstance(self.network, OwnInput)
            seen = self.network.format.described(shown) if isinstance(self.network, OwnInput) else shown
            index = compare(trained, seen, self.name, "" if own else REMEDY, may_know_more=True)
        else:
            index = match_classes(names, getattr(data, "class_names", ())) if names else None
        return None if index is None else ClassOrder(index, len(names))

    def warn_of_input(self, data: Any) -> None:
        """Warn of a network whose published weights read other images than the data's, if it states which."""
        shown = describe(data)
        if shown is None or self.trained or isinstance(self.network, OwnInput):
            return
        published = InputFormat.of_network(self.network).described(shown)
        if found := differences(published, shown):
            rank_zero_warn(
                f"teacher: the published weights of {type(self.network).__name__} read {' and '.join(found)}; unless "
                "they were trained again on images like the data's, wrap the network in kd_lightning.OwnInput"
            )


def load_teacher(
    teacher: nn.Module, paths: str | Path | Sequence[str | Path] | None, classes: str | Sequence[str] | None = None
) -> list[TeacherPart]:
    """Load the weights of a teacher's networks.

    Args:
        teacher: receives the weights.
        paths: files or run folders, one for each network; None: the networks stay as they were built.
        classes: names of the outputs of each network, or a text file of them; by default what their files state, or,
            for a network of Hugging Face, its config.

    Returns:
        The networks, each with its file.

    Raises:
        UserError: see `parts_of` and `load_weights`.
    """
    given = () if classes is None else read_names(classes)
    if paths is None:
        return [TeacherPart(it, class_names=given or stated_names(it)) for it in networks_of(teacher)]
    parts = []
    for network, path in parts_of(teacher, paths):
        file = resolve_checkpoint(path, OPTION)
        inner = without_own_input(network)
        content = _load(inner, file)
        description = content.get(KEY) if isinstance(content, dict) else None
        trained = read_trained(description, inner, f"{OPTION}: {file}")
        names = given or (trained.class_names if trained else stated_names(network))
        parts.append(TeacherPart(network, file, trained, names))
    return parts


def _load(network: nn.Module, file: Path) -> Any:
    try:
        return load_weights(network, file, OPTION)
    except UserError as error:
        if " in the file and " not in str(error):
            raise
        raise UserError(f"{error}; if the teacher has other classes than the data, give its num_classes") from error
