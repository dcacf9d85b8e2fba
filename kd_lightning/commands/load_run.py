"""Load a trained network from a checkpoint or run folder."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from kd_lightning import data, teachers
from kd_lightning.checkpoints.description import KEY, Description, compare_with_data, describe
from kd_lightning.checkpoints.file import digest_of, read_weights
from kd_lightning.checkpoints.weights import resolve_checkpoint
from kd_lightning.cli import lightning
from kd_lightning.errors import UserError, one_line
from kd_lightning.export import ImageClassifier, check_predictor, ours, plain_options, rebuild
from kd_lightning.reports.results import check_run
from kd_lightning.teachers import EnsembleTeacher, OwnInput, load_teacher, prepare_inputs, read_trained

MAX_CONFIG = 2**20
"""Largest config of a run, in bytes, and in values with aliases followed."""

FROM_PYTHON = (
    "it was not saved by kd-lightning fit; name a config that makes its network and data (--config FILE), or export "
    "it from Python: kd_lightning.export.export_network(network, describe(data), path)"
)


@dataclass
class Trained:
    """A trained network with its data and teacher.

    Attributes:
        file: the checkpoint.
        content: content of the checkpoint.
        classifier: the network with preprocessing and softmax.
        description: the images it reads, and its class names.
        data: builds the data module of the training; raises `UserError` if it cannot.
        teacher: builds the teacher with its weights; raises `UserError` if its file is missing. None without a teacher.
    """

    file: Path
    content: Any
    classifier: ImageClassifier
    description: Description
    data: Callable[[], Any]
    teacher: Callable[[], nn.Module] | None

    @property
    def run(self) -> Path | None:
        """The run folder of the checkpoint, if it has one."""
        return self.file.parent.parent if self.file.parent.name == "checkpoints" else None

    @property
    def digest(self) -> str:
        """SHA-256 of the checkpoint."""
        return digest_of(self.file)


def load_trained(path: Path, config: Path | None, option: str) -> Trained:
    """Load a trained network, from its checkpoint alone if that has a description.

    A checkpoint, and the `config.yaml` in its run folder, may be from anyone: they can name networks and data of this
    project and of torchvision alone. A config that the user names is trusted, as in `fit`.

    Args:
        path: a checkpoint or a run folder.
        config: config of network and data, which replaces the checkpoint's description.
        option: the option that named the path, for errors.

    Raises:
        UserError: no such file, a damaged checkpoint, or one without a description.
    """
    file = resolve_checkpoint(path, option)
    content = read_weights(file, option)
    check_run(file, content, option)
    trained = _by_config(file, content, config, option) if config else _by_itself(file, content, option)
    check_predictor(trained.classifier, trained.description, f"{option}: {file}")
    return trained


def _by_config(file: Path, content: Any, config: Path, option: str) -> Trained:
    words = ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]
    built = lightning.build(["test", f"--config={config}", f"--ckpt_path={file}", *words])
    description = describe(built.datamodule)
    if description is None:
        raise UserError(
            f"{option}: the data of {config} has no class names and image shape; a ClassificationDataModule expected"
        )
    if isinstance(content, dict) and compare_with_data(content.get(KEY), built.datamodule, f"{option}: {file}"):
        raise UserError(f"{option}: the data of {config} has the classes of {file} in another order; the same expected")

    def teacher() -> nn.Module:
        for part in load_teacher(built.model.teacher.network, built.model.teacher_ckpt):
            part.prepare(built.datamodule)
        return built.model.teacher.network

    prepare_inputs(built.model.net, built.datamodule)
    classifier = ImageClassifier(built.model.net, description)
    taught = teacher if hasattr(built.model, "teacher_ckpt") else None
    return Trained(file, content, classifier, description, lambda: built.datamodule, taught)


def _by_itself(file: Path, content: Any, option: str) -> Trained:
    plain = content.get(KEY) if isinstance(content, dict) else None
    config = _config_beside(file, option)
    model = _part(_part(config, "model"), "init_args")

    def make_data() -> Any:
        return _data(config, file)

    def teacher() -> nn.Module:
        assert description is not None
        return _teacher(_part(model, "teacher"), model["teacher_ckpt"], description)

    if plain is None and not model:
        raise UserError(f"{option}: {file} does not describe its network: {FROM_PYTHON}")
    try:  # checkpoints of earlier versions have the config of their run alone
        description = describe(make_data()) if plain is None else Description.of(plain)
    except ValueError as error:
        raise UserError(f"{option}: {file} has an invalid description ({error})") from error
    # A checkpoint saved with `save_weights_only` does not describe its network.
    recorded = (plain or {}).get("network") or model.get("net")
    if recorded is None or description is None:
        raise UserError(f"{option}: {file} does not describe its network: {FROM_PYTHON}")
    classifier = ImageClassifier(rebuild(recorded, content, file, option), description)
    return Trained(file, content, classifier, description, make_data, teacher if model.get("teacher_ckpt") else None)


def _teacher(recorded: dict[str, Any], paths: Any, shown: Description) -> nn.Module:
    """Build a teacher, or the members of an ensemble, with their weights, for the images that the student reads."""
    if isinstance(paths, list):
        members = _part(recorded, "init_args").get("members")
        if not isinstance(members, list) or len(members) != len(paths):
            raise UserError(f"teacher_ckpt: {len(paths)} paths found, one for each member of an ensemble expected")
        networks = [_teacher(member, path, shown) for member, path in zip(members, paths, strict=True)]
        return EnsembleTeacher(networks, **plain_options(recorded, ["members"]))
    weights = resolve_checkpoint(str(paths), "teacher_ckpt")
    content = read_weights(weights, "teacher_ckpt")
    is_wrapped = ours(recorded.get("class_path"), teachers) is OwnInput
    inner = _part(_part(recorded, "init_args"), "network") if is_wrapped else recorded
    network = rebuild(inner, content, weights, "teacher_ckpt")
    if is_wrapped:
        plain = content.get(KEY) if isinstance(content, dict) else None
        trained = read_trained(plain, network, f"teacher_ckpt: {weights}")
        network = OwnInput(network, **plain_options(recorded, ["network"]))
        network.prepare(shown, trained)
    return network


def _config_beside(file: Path, option: str) -> dict[str, Any]:
    """Read the config in the run folder of a checkpoint; empty if there is none.

    Raises:
        UserError: it is too large, or becomes so by its aliases.
    """
    path = file.parent.parent / "config.yaml"
    try:
        text = path.read_text() if path.stat().st_size <= MAX_CONFIG else None
        size = MAX_CONFIG + 1 if text is None else _values(yaml.compose(text, yaml.SafeLoader), {})
        if size > MAX_CONFIG:
            raise UserError(
                f"{option}: {path} is huge, at most {MAX_CONFIG} bytes, and as many values with its aliases "
                "followed, expected; name another config: --config FILE"
            )
        config = yaml.safe_load(text or "")
    except RecursionError as error:
        raise UserError(f"{option}: {path} is nested too deeply for a config; name another: --config FILE") from error
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _values(node: Any, known: dict[int, float]) -> float:
    """Count the values below a YAML node, with those of each alias; infinite in a circle."""
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
    """Build the data module of a run's config, if it is one of this project."""
    named = _part(config, "data")
    if not named:
        raise UserError(f"no config.yaml with its data beside {file.parent}")
    make = ours(named.get("class_path"), data)
    if not (isinstance(make, type) and issubclass(make, data.ClassificationDataModule)):
        raise UserError(f"the data is {named.get('class_path')}; where you trust it, name its config: --config FILE")
    try:
        return make(**plain_options(named, ["views"]))  # views are used in training alone
    except UserError:
        raise
    except Exception as error:  # the options may be from anyone
        raise UserError(f"the data of its config.yaml cannot be built ({one_line(error)})") from error
