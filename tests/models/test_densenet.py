import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import DenseNet121_Weights

from kd_lightning.errors import UserError
from kd_lightning.models import SmallCNN, densenet121

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def imagenet() -> State:
    """A state dict as torchvision's DenseNet-121 has it today, with its 1000 classes."""
    torch.manual_seed(1)
    state = torchvision.models.densenet121().state_dict()
    state["features.norm5.running_mean"].uniform_()
    state["features.norm5.num_batches_tracked"].fill_(7)
    return state


def as_published(state: State) -> State:
    """The same with the names of torchvision's published file, which has no counters."""
    rename = re.compile(r"(denselayer\d+\.(?:norm|conv))([12]\.)")
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    return {rename.sub(r"\1.\2", name): tensor for name, tensor in kept.items()}


def mebibytes(network: nn.Module) -> float:
    return sum(t.numel() * t.element_size() for t in [*network.parameters(), *network.buffers()]) / 2**20


def assert_backbone(network: nn.Module, state: State) -> None:
    backbone = {f"features.{name}": tensor for name, tensor in network.features.state_dict().items()}
    assert backbone.keys() == {name for name in state if name.startswith("features.")}
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.items())


def refusal(weights: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        densenet121(str(weights))
    message = str(caught.value)
    assert message.startswith("weights: ")
    assert str(weights) in message
    assert "\n" not in message
    return message


def test_the_published_network_has_its_size_and_the_student_its_reduction() -> None:
    teacher, student = mebibytes(densenet121()), mebibytes(SmallCNN())
    assert teacher == pytest.approx(27.874, abs=5e-4)
    assert 100 * (1 - student / teacher) == pytest.approx(97.40, abs=5e-3)


def test_the_head_is_three_linear_layers_with_nothing_between() -> None:
    torch.manual_seed(0)
    network = densenet121().eval()
    published = torchvision.models.densenet121()
    published.classifier = nn.Sequential(nn.Linear(1024, 250), nn.Linear(250, 50), nn.Linear(50, 10))
    published.load_state_dict(network.state_dict())
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(image), published.eval()(image))


@pytest.mark.parametrize("head", [(), (7,)])
def test_the_head_is_a_choice(head: tuple[int, ...]) -> None:
    network = densenet121(head=head, num_classes=3)
    assert [layer.out_features for layer in network.classifier] == [*head, 3]
    assert tuple(network(torch.zeros(2, 3, 32, 32)).shape) == (2, 3)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.safetensors"])
def test_a_files_backbone_is_taken_and_the_head_is_new(tmp_path: Path, imagenet: State, name: str) -> None:
    save: Any = save_file if name.endswith(".safetensors") else torch.save
    save(imagenet, tmp_path / name)
    network = densenet121(str(tmp_path / name), num_classes=3)
    assert_backbone(network, imagenet)
    assert [tuple(layer.weight.shape) for layer in network.classifier] == [(250, 1024), (50, 250), (3, 50)]


def test_the_head_in_the_file_may_be_any_or_none(tmp_path: Path, imagenet: State) -> None:
    backbone = {name: tensor for name, tensor in imagenet.items() if name.startswith("features.")}
    for head in ({}, {"classifier.0.weight": torch.zeros(250, 1024)}):
        torch.save({**backbone, **head}, tmp_path / "weights.pt")
        assert_backbone(densenet121(str(tmp_path / "weights.pt")), imagenet)


def test_a_file_with_the_published_files_names_is_read(tmp_path: Path, imagenet: State) -> None:
    torch.save(as_published(imagenet), tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    zero = torch.tensor(0)
    counted = {name: zero if name.endswith("num_batches_tracked") else tensor for name, tensor in imagenet.items()}
    assert_backbone(densenet121(str(tmp_path / "weights.pth")), counted)


@pytest.mark.parametrize("entry", ["DEFAULT", "IMAGENET1K_V1"])
def test_an_entry_is_downloaded_checked_with_a_time_limit_and_running_no_code(
    monkeypatch: pytest.MonkeyPatch, imagenet: State, entry: str
) -> None:
    seen: dict[str, Any] = {}

    def download(url: str, **kwargs: Any) -> State:
        seen.update(kwargs, url=url, patience=socket.getdefaulttimeout())
        return as_published(imagenet)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    network = densenet121(entry)
    assert torch.equal(network.features.conv0.weight, imagenet["features.conv0.weight"])
    assert seen["url"] == DenseNet121_Weights.DEFAULT.url
    assert seen["check_hash"]
    assert seen["weights_only"]
    assert seen["patience"] == 10
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("error", [OSError("no\nroute"), RuntimeError("invalid hash value"), TimeoutError()])
def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(url: str, **_: Any) -> None:
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    message = refusal("DEFAULT")
    assert (" ".join(str(error).split()) or "TimeoutError") in message
    assert "densenet121-a639ec97.pth elsewhere, and name the file in place of DEFAULT" in message
    assert socket.getdefaulttimeout() is None


def test_what_is_neither_a_file_nor_an_entry_is_refused_with_the_entries(tmp_path: Path) -> None:
    for weights in (tmp_path / "missing.pt", tmp_path, "default"):
        assert "IMAGENET1K_V1, DEFAULT expected" in refusal(weights)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_file_that_is_empty_cut_short_or_text_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save: Any = save_file if name.endswith(".safetensors") else torch.save
    save({"features.conv0.weight": torch.zeros(64, 3, 7, 7)}, path)
    damaged = "cannot be read: it is damaged, cut short, or no checkpoint"
    contents = {
        b"": "is empty (0 bytes), a checkpoint expected",
        path.read_bytes()[:1000]: damaged,
        b"hello, I am a text\n": damaged,
    }
    for content, expected in contents.items():
        path.write_bytes(content)
        assert refusal(path) == f"weights: {path} {expected}"


def test_a_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "network.pt")
    assert "holds pickled Python objects, which are never run" in refusal(tmp_path / "network.pt")


@pytest.mark.parametrize("content", [[1, 2], {}, {0: torch.zeros(1)}, {"features.conv0.weight": "text"}])
def test_what_holds_no_backbone_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pt")
    assert "features.conv0.weight is missing" in refusal(tmp_path / "weights.pt")


def test_another_networks_weights_are_refused_with_the_first_that_does_not_fit(tmp_path: Path, imagenet: State) -> None:
    path = tmp_path / "weights.pt"
    torch.save({name: tensor for name, tensor in imagenet.items() if "norm5.bias" not in name}, path)
    assert "features.norm5.bias is missing" in refusal(path)
    torch.save({**imagenet, "features.norm6.bias": torch.zeros(3)}, path)
    assert "features.norm6.bias is not in the network" in refusal(path)
    torch.save({**imagenet, "features.norm5.bias": torch.zeros(3)}, path)
    assert "features.norm5.bias is [3] in the file and [1024] in the network" in refusal(path)


def test_a_config_can_name_the_function(tmp_path: Path, imagenet: State) -> None:
    torch.save(imagenet, tmp_path / "weights.pt")
    parser = ArgumentParser()
    parser.add_argument("--net", type=nn.Module)
    options = {"weights": str(tmp_path / "weights.pt"), "head": [5], "num_classes": 3}
    net = {"class_path": "kd_lightning.models.densenet121", "init_args": options}
    network = parser.instantiate_classes(parser.parse_object({"net": net})).net
    assert_backbone(network, imagenet)
    assert [layer.out_features for layer in network.classifier] == [5, 3]
