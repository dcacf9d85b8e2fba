import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import ShuffleNet_V2_X0_5_Weights

from kd_lightning.errors import UserError
from kd_lightning.models import pretrained

State = dict[str, Tensor]
NAME = "shufflenet_v2_x0_5"
HEADS = {
    "resnet18": "fc",
    "regnet_y_400mf": "fc",
    "shufflenet_v2_x0_5": "fc",
    "densenet121": "classifier",
    "squeezenet1_1": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "efficientnet_b0": "classifier.1",
    "convnext_tiny": "classifier.2",
    "swin_t": "head",
}


@pytest.fixture(scope="module")
def published() -> State:
    """A state dict as torchvision's network has it, with its 1000 classes."""
    torch.manual_seed(1)
    state = getattr(torchvision.models, NAME)().state_dict()
    state["conv1.1.running_mean"].uniform_()
    state["conv1.1.num_batches_tracked"].fill_(7)
    return state


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps the file once it is downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / Path(ShuffleNet_V2_X0_5_Weights.DEFAULT.url).name
    file.parent.mkdir(parents=True)
    return file


def body(state: State, head: str = "fc") -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(f"{head}.")}


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def refusal(weights: str | Path, name: str = NAME) -> str:
    with pytest.raises(UserError) as caught:
        pretrained(name, str(weights))
    message = str(caught.value)
    assert message.startswith("weights: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("name", "head"), HEADS.items())
def test_every_layer_but_the_last_is_the_file_s(tmp_path: Path, name: str, head: str) -> None:
    published = getattr(torchvision.models, name)(num_classes=1000)
    torch.save(published.state_dict(), tmp_path / "weights.pt")
    network = pretrained(name, str(tmp_path / "weights.pt"), num_classes=3)
    assert_same(body(network.state_dict(), head), body(published.state_dict(), head))
    assert {name: tensor.shape[0] for name, tensor in network.state_dict().items() if name.startswith(f"{head}.")} == {
        f"{head}.weight": 3,
        f"{head}.bias": 3,
    }


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.safetensors"])
def test_a_file_s_kind_goes_by_its_name(tmp_path: Path, published: State, name: str) -> None:
    save: Any = save_file if name.endswith(".safetensors") else torch.save
    save(published, tmp_path / name)
    network = pretrained(NAME, str(tmp_path / name), num_classes=3)
    assert_same(body(network.state_dict()), body(published))


@pytest.mark.parametrize("head", [{}, {"fc.weight": torch.zeros(7, 1024)}, {"fc.0.weight": torch.zeros(2)}])
def test_the_head_in_the_file_may_be_any_or_none(tmp_path: Path, published: State, head: State) -> None:
    torch.save({**body(published), **head}, tmp_path / "weights.pt")
    assert_same(body(pretrained(NAME, str(tmp_path / "weights.pt")).state_dict()), body(published))


def test_key_and_prefix_may_be_any_and_two_networks_in_a_file_are_named(tmp_path: Path, published: State) -> None:
    path = tmp_path / "weights.pt"
    wrapped = {f"module.encoder.{name}": tensor for name, tensor in published.items()}
    torch.save({"model": {**wrapped, "module.projector.weight": torch.zeros(2)}, "epoch": 3}, path)
    assert_same(body(pretrained(NAME, str(path), num_classes=3).state_dict()), body(published))
    torch.save({"model": wrapped, "ema": {name: tensor + 1 for name, tensor in wrapped.items()}}, path)
    assert "several do, with different values: key model, prefix module.encoder.; key ema" in refusal(path)


def test_a_file_may_be_older_than_batch_norms_counters(tmp_path: Path, published: State) -> None:
    old = {name: tensor for name, tensor in published.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    network = pretrained(NAME, str(tmp_path / "weights.pth"))
    assert_same(body(network.state_dict()), body({**published, "conv1.1.num_batches_tracked": torch.tensor(0)}))


@pytest.mark.parametrize("entry", ["DEFAULT", "IMAGENET1K_V1"])
def test_an_entry_is_downloaded_checked_with_a_time_limit_and_running_no_code(
    monkeypatch: pytest.MonkeyPatch, published: State, entry: str
) -> None:
    seen: dict[str, Any] = {}

    def download(url: str, **kwargs: Any) -> State:
        seen.update(kwargs, url=url, patience=socket.getdefaulttimeout())
        return published

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    assert_same(body(pretrained(NAME, entry).state_dict()), body(published))
    assert seen["url"] == ShuffleNet_V2_X0_5_Weights.DEFAULT.url
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
    assert message.startswith(f"weights: IMAGENET1K_V1 of {NAME} cannot be downloaded")
    assert (" ".join(str(error).split()) or "TimeoutError") in message
    assert f"fetch {ShuffleNet_V2_X0_5_Weights.DEFAULT.url} elsewhere, and name the file instead" in message
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"101"])
def test_a_damaged_file_among_the_downloads_is_named(downloaded: Path, content: bytes) -> None:
    downloaded.write_bytes(content)
    assert str(downloaded) in refusal("DEFAULT")


def test_what_was_downloaded_before_is_not_downloaded_again(downloaded: Path, published: State) -> None:
    torch.save(published, downloaded)
    assert_same(body(pretrained(NAME, "DEFAULT").state_dict()), body(published))


def test_no_weights_are_random_ones() -> None:
    torch.manual_seed(0)
    network = pretrained(NAME, None, num_classes=3)
    torch.manual_seed(0)
    assert_same(network.state_dict(), getattr(torchvision.models, NAME)(num_classes=3).state_dict())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet81", "resnet18"),
        ("deeplabv3_resnet50", "resnet50"),
        ("", "resnet18"),
    ],
)
def test_an_unknown_network_is_refused_with_close_names(name: str, expected: str) -> None:
    with pytest.raises(UserError, match=rf"^name: {name} found, .* such as .*{expected}"):
        pretrained(name)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_a_network_with_auxiliary_outputs_is_refused() -> None:
    with pytest.raises(UserError, match=r"^name: googlenet found, which has auxiliary outputs"):
        pretrained("googlenet", None)


def test_what_is_neither_a_file_nor_an_entry_is_refused_with_the_entries(tmp_path: Path) -> None:
    for weights in (tmp_path / "missing.pt", tmp_path, "default"):
        message = refusal(weights)
        assert str(weights) in message
        assert "IMAGENET1K_V1, DEFAULT expected" in message


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_file_that_is_empty_cut_short_or_text_is_refused(tmp_path: Path, published: State, name: str) -> None:
    path = tmp_path / name
    save: Any = save_file if name.endswith(".safetensors") else torch.save
    save({"conv1.0.weight": published["conv1.0.weight"]}, path)
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


@pytest.mark.parametrize("content", [[1, 2], {}, {0: torch.zeros(1)}, {"conv1.0.weight": "text"}])
def test_what_holds_no_network_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pt")
    expected = f"weights: {tmp_path / 'weights.pt'} does not fit {NAME}: conv1.0.weight is missing"
    assert refusal(tmp_path / "weights.pt") == expected


def test_another_networks_weights_are_refused_with_the_first_that_does_not_fit(
    tmp_path: Path, published: State
) -> None:
    path = tmp_path / "weights.pt"
    torch.save({name: tensor for name, tensor in published.items() if name != "conv5.1.bias"}, path)
    assert "conv5.1.bias is missing" in refusal(path)
    torch.save({**published, "conv6.1.bias": torch.zeros(3)}, path)
    assert "conv6.1.bias is not in the network" in refusal(path)
    torch.save({**published, "conv5.1.bias": torch.zeros(3)}, path)
    assert "conv5.1.bias is 3 in the file and 1024 in the network" in refusal(path)


def test_a_config_can_name_the_function(tmp_path: Path, published: State) -> None:
    torch.save(published, tmp_path / "weights.pt")
    parser = ArgumentParser()
    parser.add_argument("--net", type=nn.Module)
    options = {"name": NAME, "weights": str(tmp_path / "weights.pt"), "num_classes": 3}
    net = {"class_path": "kd_lightning.models.pretrained", "init_args": options}
    network = parser.instantiate_classes(parser.parse_object({"net": net})).net
    assert_same(body(network.state_dict()), body(published))
