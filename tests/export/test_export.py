import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from kd_lightning.checkpoints.description import Description, describe
from kd_lightning.cli.arguments import FORMATS
from kd_lightning.data import DigitsDataModule
from kd_lightning.errors import UserError
from kd_lightning.export import SUFFIXES, ImageClassifier, export_network, formats, open_exported
from kd_lightning.models import CNN, MLP

GREY = Description(("a", "b", "c"), (1, 8, 8), (1, 8, 8), (0.5,), (0.25,))


def test_a_classifier_normalises_and_gives_probabilities() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]))
    description = Description(("a", "b"), (1, 2, 2), (1, 2, 2), (0.5,), (0.25,))
    image = torch.tensor([[[[255, 0], [9, 9]]]], dtype=torch.uint8)  # normalised 2 and -2
    expected = torch.tensor([[2.0, -2.0]]).softmax(dim=-1)
    torch.testing.assert_close(ImageClassifier(network, description)(image), expected)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("stored", [5, 13])
def test_an_export_resizes_as_the_data_module_does(suffix: str, stored: int, tmp_path: Path) -> None:
    """To a larger size, and to a smaller one, with antialiasing."""
    torch.manual_seed(0)
    network = CNN([4], hidden=[8], in_channels=3, image_size=8, num_classes=3)
    description = Description(("a", "b", "c"), (3, 8, 8), (3, stored, stored), (0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
    found = export_network(network, description, tmp_path / f"model{suffix}")
    assert found.difference < 1e-5
    assert found.images == 257
    assert open_exported(tmp_path / f"model{suffix}", "model")[0] == description


def test_a_description_is_that_of_the_data() -> None:
    description = describe(DigitsDataModule())
    assert description is not None
    assert description.image_shape == (1, 8, 8)
    assert Description.of(json.loads(json.dumps(description.plain()))) == description
    assert describe(None) is None
    assert describe(object()) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("class_names", ["only"]),
        ("class_names", [1, 2]),
        ("image_shape", [1, 8]),
        ("image_shape", [1, 8, 10**9]),
        ("image_shape", [3, 8, 8]),
        ("mean", [0.1, 0.2]),
        ("mean", [float("nan")]),
        ("std", [0.0]),
        ("stored_shape", None),
        ("mean", ["0.1"]),
    ],
)
def test_a_description_that_is_none_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        Description.of({**GREY.plain(), name: value})


def test_a_name_without_a_known_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a name with \.onnx or \.pt2 expected"):
        export_network(MLP([64, 3]), GREY, tmp_path / "model.tflite")


def test_a_file_that_is_no_export_is_one_line(tmp_path: Path) -> None:
    export_network(MLP([64, 3]), GREY, tmp_path / "model.onnx")
    whole = (tmp_path / "model.onnx").read_bytes()
    torch.export.save(torch.export.export(MLP([64, 3]), (torch.zeros(1, 64),)), tmp_path / "foreign.pt2")
    contents = {"cut": whole[: len(whole) // 2], "text": b"no model", "empty": b""}
    for kind, content in contents.items():
        for suffix in (".onnx", ".pt2"):
            (tmp_path / f"{kind}{suffix}").write_bytes(content)
    for name in (*(f"{kind}{suffix}" for kind in contents for suffix in (".onnx", ".pt2")), "none.onnx", "foreign.pt2"):
        with pytest.raises(UserError, match=rf"^model: .*{name}") as error:
            open_exported(tmp_path / name, "model")
        assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"class_names": ("a", "b")}, "one number for each of 2 classes"), ({"stored_shape": (1, 9, 9)}, "of 1x9x9")],
)
def test_a_file_that_says_something_else_of_itself_is_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "Description", SimpleNamespace(of=lambda plain: replace(GREY, **changes)))
    with pytest.raises(UserError, match=message):
        export_network(MLP([64, 3]), GREY, tmp_path / "model.onnx")
    assert not [*tmp_path.iterdir()]


def test_the_command_line_knows_the_formats_without_torch() -> None:
    assert tuple(SUFFIXES) == FORMATS


def test_the_network_is_left_as_it_is(tmp_path: Path) -> None:
    network = MLP([64, 3], hidden_dropout=0.5).bfloat16().train()
    export_network(network, GREY, tmp_path / "model.pt2")
    assert network.training
    assert all(p.requires_grad and p.dtype is torch.bfloat16 for p in network.parameters())


def test_a_network_whose_answers_depend_on_the_images_beside_is_refused(tmp_path: Path) -> None:
    norm = nn.BatchNorm2d(1, track_running_stats=False)
    with pytest.raises(UserError, match="batch norm without running statistics found, with them expected"):
        export_network(nn.Sequential(norm, MLP([64, 3])), GREY, tmp_path / "model.pt2")
    with pytest.raises(UserError, match="images: none found, at least one batch expected"):
        export_network(MLP([64, 3]), GREY, tmp_path / "model.pt2", [])
    assert not [*tmp_path.iterdir()]
