import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kd_lightning.checkpoints.weights import load_weights, resolve_checkpoint
from kd_lightning.errors import UserError
from kd_lightning.models import MLP


def network() -> MLP:
    return MLP([4, 5, 3])


@pytest.fixture
def trained() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return network().state_dict()


def refusal(path: Path, target: nn.Module | None = None) -> str:
    """Read a file that must be refused: the error's one line, which names the option and the file."""
    with pytest.raises(UserError) as caught:
        load_weights(target or network(), path, "teacher_ckpt")
    message = str(caught.value)
    assert message.startswith("teacher_ckpt: ")
    assert str(path) in message
    assert "\n" not in message
    return message


def assert_loads(path: Path, expected: dict[str, Tensor]) -> None:
    target = network()
    load_weights(target, path, "teacher_ckpt")
    loaded = target.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.touch()
    assert resolve_checkpoint(str(file), "teacher_ckpt") == file


def test_a_run_folder_means_its_best_checkpoint_else_its_last(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "last.ckpt").touch()
    assert resolve_checkpoint(tmp_path, "teacher_ckpt") == checkpoints / "last.ckpt"
    (checkpoints / "best.ckpt").touch()
    assert resolve_checkpoint(tmp_path, "teacher_ckpt") == checkpoints / "best.ckpt"


def test_a_run_folder_without_checkpoints_and_a_path_to_nothing_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"teacher_ckpt: {tmp_path} has no checkpoints/best.ckpt"):
        resolve_checkpoint(tmp_path, "teacher_ckpt")
    missing = tmp_path / "missing.ckpt"
    with pytest.raises(UserError, match=f"teacher_ckpt: no file or run folder {missing}"):
        resolve_checkpoint(missing, "teacher_ckpt")


def test_of_one_of_our_checkpoints_the_network_alone_is_read(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {**prefixed("net.", trained), "regressor.weight": torch.zeros(2, 2)},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
    }
    torch.save(content, tmp_path / "last.ckpt")
    assert_loads(tmp_path / "last.ckpt", trained)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "net."])
@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.safetensors"])
def test_a_state_dict_that_others_saved_is_read_whatever_wrapped_the_network(
    tmp_path: Path, trained: dict[str, Tensor], name: str, prefix: str
) -> None:
    save: Any = save_file if name.endswith(".safetensors") else torch.save
    save(prefixed(prefix, trained), tmp_path / name)
    assert_loads(tmp_path / name, trained)


@pytest.mark.parametrize("name", ["weights.ckpt", "weights.safetensors"])
def test_a_file_that_is_empty_cut_short_or_text_is_refused(
    tmp_path: Path, trained: dict[str, Tensor], name: str
) -> None:
    path = tmp_path / name
    path.touch()
    assert "is empty (0 bytes)" in refusal(path)
    save: Any = save_file if name.endswith(".safetensors") else torch.save
    save(trained, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "damaged, cut short, or no checkpoint" in refusal(path)
    path.write_text("hello, I am a text\n")
    refusal(path)


def test_a_pickled_network_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "network.pt")
    message = refusal(tmp_path / "network.pt")
    assert "never run" in message
    assert "torch.save(network.state_dict()" in message


class Payload:
    """When it is unpickled, it creates a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return builtins.open, (str(self.victim), "w")


def test_nothing_in_a_file_is_run(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    path, victim = tmp_path / "weights.pt", tmp_path / "victim"
    torch.save({"state_dict": trained, "extra": Payload(victim)}, path)
    refusal(path)
    assert not victim.exists()
    torch.load(path, weights_only=False)["extra"].close()  # the payload is live
    assert victim.exists()


def test_another_architecture_is_refused_with_both_shapes_and_the_network_stays_as_it_was(
    tmp_path: Path, trained: dict[str, Tensor]
) -> None:
    torch.save(trained, tmp_path / "weights.pt")
    wider = MLP([4, 7, 3])
    before = {name: tensor.clone() for name, tensor in wider.state_dict().items()}
    message = refusal(tmp_path / "weights.pt", wider)
    assert "do not fit MLP" in message
    assert "linear1.weight is 5x4 in the file and 7x4 in the network" in message
    assert all(torch.equal(wider.state_dict()[name], tensor) for name, tensor in before.items())


def test_missing_and_unknown_weights_are_named_three_at_most(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    torch.save(trained, tmp_path / "weights.pt")
    deeper = refusal(tmp_path / "weights.pt", MLP([4, 5, 3, 3]))
    assert "linear3.weight is missing; linear3.bias is missing" in deeper
    shallower = refusal(tmp_path / "weights.pt", MLP([4, 3]))
    assert "linear2.weight is not in the network; linear2.bias is not in the network; " in shallower
    assert shallower.endswith(" and 1 more")


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {},
        {"a": 1},
        {0: torch.zeros(3)},
        {"state_dict": {}},
        {"state_dict": {0: torch.zeros(3)}},
        torch.zeros(3),
    ],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pt")
    assert "holds no state dict: names with tensors were expected" in refusal(tmp_path / "weights.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_files_cut_anywhere_end_in_the_one_line_error(tmp_path: Path, trained: dict[str, Tensor], legacy: bool) -> None:
    path = tmp_path / "weights.pt"
    torch.save(trained, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for size in range(1, len(whole) - 1, len(whole) // 60):
        path.write_bytes(whole[:size])
        assert str(path) in refusal(path)


@pytest.mark.parametrize("text", ["a", "e\n", "}", "(", "\x80\x02", "<html></html>", "0", "."])
def test_texts_end_in_the_one_line_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(text.encode("latin-1"))
    assert str(path) in refusal(path)
