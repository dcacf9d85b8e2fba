"""A trained network from what a user names: a checkpoint, or a run folder."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from kd_lightning import data
from kd_lightning.checkpoints.description import KEY, Description, compare_with_data, describe
from kd_lightning.checkpoints.file import digest_of, read_weights
from kd_lightning.checkpoints.weights import load_weights, resolve_checkpoint
from kd_lightning.cli import lightning
from kd_lightning.errors import UserError, one_line
from kd_lightning.export import ImageClassifier, check_answer, ours, plain_options, rebuild
from kd_lightning.reports.results import check_run
from kd_lightning.teachers import EnsembleTeacher, parts_of

LARGEST_CONFIG = 2**20
"""Bytes, and values with aliases followed, of a run's config."""

FROM_PYTHON = (
    "it was not saved by kd-lightning fit; name a config that makes its network and data (--config FILE), or export "
    "it from Python: kd_lightning.export.export_network(network, describe(data), path)"
)


@dataclass
class Trained:
    """A network with its weights, and all that was found around it.

    Attributes:
        file: the checkpoint.
        content: what is in it.
        classifier: the network with its weights, from uint8 images to probabilities.
        description: what it reads, and its classes.
        data: makes the data module that it was trained with; raises `UserError` where that cannot be.
        teacher: makes the teacher, with its weights; raises `UserError` where it is gone. None where none is known.
    """

    file: Path
    content: Any
    classifier: ImageClassifier
    description: Description
    data: Callable[[], Any]
    teacher: Callable[[], nn.Module] | None

    @property
    def run(self) -> Path | None:
        """The run folder that the checkpoint lies in."""
        return self.file.parent.parent if self.file.parent.name == "checkpoints" else None

    @property
    def digest(self) -> str:
        """SHA-256 of the checkpoint."""
        return digest_of(self.file)


def load_trained(path: Path, config: Path | None, option: str) -> Trained:
    """Make a trained network again, from its checkpoint alone where that describes it.

    A checkpoint, and the `config.yaml` of the run folder it lies in, may be anybody's: of those, networks and data of
    this project and of torchvision are made alone. A config that the user names is trusted, as in `fit`.

    Args:
        path: a checkpoint or a run folder.
        config: YAML that makes network and data in place of what the checkpoint says.
        option: what the user set it with, for errors.

    Raises:
        UserError: nothing there, a damaged checkpoint, or one that does not say what it is of.
    """
    file = resolve_checkpoint(path, option)
    content = read_weights(file, option)
    check_run(file, content, option)
    trained = _by_config(file, content, config, option) if config else _by_itself(file, content, option)
    check_answer(trained.classifier, trained.description, f"{option}: {file}")
    return trained


def _by_config(file: Path, content: Any, config: Path, option: str) -> Trained:
    words = ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]
    built = lightning.build(["test", f"--config={config}", f"--ckpt_path={file}", *words])
    description = describe(built.datamodule)
    if description is None:
        raise UserError(f"{option}: the data of {config} does not say what it shows; a data module of ours expected")
    if isinstance(content, dict) and compare_with_data(content.get(KEY), built.datamodule, f"{option}: {file}"):
        raise UserError(f"{option}: the data of {config} has the classes of {file} in another order; the same expected")

    def teacher() -> nn.Module:
        paths = built.model.teacher_ckpt
        for network, path in [] if paths is None else parts_of(built.model.teacher.network, paths):
            load_weights(network, resolve_checkpoint(path, "teacher_ckpt"), "teacher_ckpt")
        return built.model.teacher.network

    classifier = ImageClassifier(built.model.net, description)
    taught = teacher if hasattr(built.model, "teacher_ckpt") else None
    return Trained(file, content, classifier, description, lambda: built.datamodule, taught)


def _by_itself(file: Path, content: Any, option: str) -> Trained:
    said = content.get(KEY) if isinstance(content, dict) else None
    config = _config_beside(file, option)
    model = _part(_part(config, "model"), "init_args")

    def make_data() -> Any:
        return _data(config, file)

    def teacher() -> nn.Module:
        return _teacher(_part(model, "teacher"), model["teacher_ckpt"])

    if said is None and not model:
        raise UserError(f"{option}: {file} does not say how its network is made: {FROM_PYTHON}")
    try:  # a checkpoint of before has the config of its run alone
        description = describe(make_data()) if said is None else Description.of(said)
    except ValueError as error:
        raise UserError(f"{option}: {file} has a description that is none ({error})") from error
    # A checkpoint of weights alone (`save_weights_only`) does not say how its network is made.
    recorded = (said or {}).get("network") or model.get("net")
    if recorded is None or description is None:
        raise UserError(f"{option}: {file} does not say how its network is made: {FROM_PYTHON}")
    classifier = ImageClassifier(rebuild(recorded, content, file, option), description)
    return Trained(file, content, classifier, description, make_data, teacher if model.get("teacher_ckpt") else None)


def _teacher(recorded: dict[str, Any], paths: Any) -> nn.Module:
    """Make a teacher again, or of an ensemble its members, each from its own file."""
    if isinstance(paths, list):
        members = _part(recorded, "init_args").get("members")
        if not isinstance(members, list) or len(members) != len(paths):
            raise UserError(f"teacher_ckpt: {len(paths)} paths found, one for each member of an ensemble expected")
        return EnsembleTeacher([_teacher(member, path) for member, path in zip(members, paths, strict=True)])
    weights = resolve_checkpoint(str(paths), "teacher_ckpt")
    return rebuild(recorded, read_weights(weights, "teacher_ckpt"), weights, "teacher_ckpt")


def _config_beside(file: Path, option: str) -> dict[str, Any]:
    """Read the config of the run that a checkpoint lies in; empty where there is none.

    Raises:
        UserError: it is huge, or its aliases make it so.
    """
    path = file.parent.parent / "config.yaml"
    try:
        text = path.read_text() if path.stat().st_size <= LARGEST_CONFIG else None
        size = LARGEST_CONFIG + 1 if text is None else _values(yaml.compose(text, yaml.SafeLoader), {})
        if size > LARGEST_CONFIG:
            raise UserError(
                f"{option}: {path} is huge, at most {LARGEST_CONFIG} bytes, and as many values with its aliases "
                "followed, expected; name another config: --config FILE"
            )
        config = yaml.safe_load(text or "")
    except RecursionError as error:
        raise UserError(f"{option}: {path} is nested too deeply for a config; name another: --config FILE") from error
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _values(node: Any, known: dict[int, float]) -> float:
    """Count the values below a node of YAML, those of an alias each time; without end in a circle."""
    if id(node) not in known:
        known[id(node)] = math.inf
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = [child if isinstance(child, tuple) else (child,) for child in children]
        known[id(node)] = 1 + sum(_values(part, known) for pair in pairs for part in pair)
    return known[id(node)]


def _part(config: dict[str, Any], name: str) -> dict[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _data(config: dict[str, Any], file: Path) -> Any:
    """Make the data module of a run's config, if it is one of ours."""
    named = _part(config, "data")
    if not named:
        raise UserError(f"no config.yaml with its data beside {file.parent}")
    make = ours(named.get("class_path"), data)
    if not (isinstance(make, type) and issubclass(make, data.ClassificationDataModule)):
        raise UserError(f"the data is {named.get('class_path')}; where you trust it, name its config: --config FILE")
    try:
        return make(**plain_options(named, ["views"]))  # which are of training alone
    except UserError:
        raise
    except Exception as error:  # options that anybody wrote
        raise UserError(f"the data of its config.yaml cannot be made ({one_line(error)})") from error
