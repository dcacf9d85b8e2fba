"""Load the weights of a teacher, or of each member of an ensemble."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from kd_lightning.checkpoints.description import KEY, Description, compare, differences, read_description
from kd_lightning.checkpoints.weights import load_weights, resolve_checkpoint
from kd_lightning.teachers.ensemble import networks_of, parts_of
from kd_lightning.teachers.own_input import InputFormat, OwnInput, without_own_input

OPTION = "teacher_ckpt"

REMEDY = " wrap the network in kd_lightning.OwnInput,"
"""What to do where only the images differ."""


class TeacherPart(NamedTuple):
    """A network of a teacher, with what its file says of it.

    Attributes:
        network: a member of an ensemble, or the teacher itself.
        file: of its weights; None for a network as it was built.
        trained: what it was trained on, as its file describes it; None if that does not.
    """

    network: nn.Module
    file: Path | None = None
    trained: Description | None = None

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

    def class_order(self, shown: Description | None) -> list[int] | None:
        """Compare what the network was trained on with the data of a run.

        Args:
            shown: description of the data; None if it has none, which fits any network.

        Returns:
            For each class of the data, the index of the network's output; None if the order is the same.

        Raises:
            UserError: other class names, another image shape or another normalisation.
        """
        if shown is None or self.trained is None:
            return None
        if isinstance(self.network, OwnInput):
            return compare(self.trained, self.network.format.described(shown), self.name)
        return compare(self.trained, shown, self.name, REMEDY)

    def warn_of_input(self, shown: Description | None) -> None:
        """Warn of a network whose published weights read other images than the data's, if it states which."""
        if shown is None or self.trained or isinstance(self.network, OwnInput):
            return
        published = InputFormat.of_network(self.network).described(shown)
        if found := differences(published, shown):
            rank_zero_warn(
                f"teacher: the published weights of {type(self.network).__name__} read {' and '.join(found)}; unless "
                "they were trained again on images like the data's, wrap the network in kd_lightning.OwnInput"
            )


def load_teacher(teacher: nn.Module, paths: str | Path | Sequence[str | Path] | None) -> list[TeacherPart]:
    """Load the weights of a teacher's networks.

    Args:
        teacher: receives the weights.
        paths: files or run folders, one for each network; None: the networks stay as they were built.

    Returns:
        The networks, each with its file.

    Raises:
        UserError: see `parts_of` and `load_weights`.
    """
    if paths is None:
        return [TeacherPart(network) for network in networks_of(teacher)]
    parts = []
    for network, path in parts_of(teacher, paths):
        file = resolve_checkpoint(path, OPTION)
        content = load_weights(without_own_input(network), file, OPTION)
        description = content.get(KEY) if isinstance(content, dict) else None
        parts.append(TeacherPart(network, file, read_description(description, f"{OPTION}: {file}")))
    return parts
