"""Weights under whatever key and prefix a file has them, and one line of what was taken."""

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kd_lightning.checkpoints.weights import load_weights
from kd_lightning.errors import UserError
from kd_lightning.models import MLP

State = dict[str, Tensor]


class Net(nn.Module):
    """Blocks of equal shapes, batch norm and a head, as residual networks have them."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.layer1 = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)) for _ in range(blocks)))
        self.fc = nn.Linear(4, 3)


def trained(seed: int = 0, blocks: int = 2) -> State:
    torch.manual_seed(seed)
    return {name: torch.rand_like(tensor.float()).to(tensor.dtype) for name, tensor in Net(blocks).state_dict().items()}


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(content: Any, name: str = "weights.pth") -> Path:
    path = Path(name)
    save: Any = save_file if name.endswith(".safetensors") else torch.save
    save(content, path)
    return path


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(path: Path) -> State:
    network = Net()
    load_weights(network, path, "teacher_ckpt")
    return network.state_dict()


def assert_loads(path: Path, expected: State) -> None:
    found = loaded(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def refusal(path: Path, network: nn.Module | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_weights(network or Net(), path, "teacher_ckpt")
    message = str(caught.value)
    assert message.startswith(f"teacher_ckpt: {path} ") or f"the weights in {path} " in message
    assert "\n" not in message
    return message


HEAD, PROJECTOR = {"head.weight": torch.zeros(7, 4)}, {"projector.0.weight": torch.zeros(5, 4)}
TRAINING = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 0.1}]}}
KEYS = ["model", "model_state_dict", "net", "ema", "state_dict", "state_dict_ema", "module", "weights", "params"]
KEYS += ["params_ema", "network", "teacher"]


@pytest.mark.parametrize("name", ["weights.pth", "weights.bin", "weights.th", "checkpoint.pth.tar", "weights.ckpt"])
@pytest.mark.parametrize("key", KEYS)
def test_the_state_dict_is_found_under_any_key(key: str, name: str) -> None:
    assert_loads(saved({key: OrderedDict(trained()), **TRAINING, "best_acc": 0.9}, name), trained())


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"model": {"state_dict": trained()}}, "key model.state_dict"),
        ({"a": {"b": {"c": trained()}}}, "key a.b.c"),
        (under("module.", trained()), "prefix module."),
        (under("module.model._orig_mod.", trained()), "prefix module.model._orig_mod."),
        ({"state_dict": under("student.backbone.", trained())}, "key state_dict, prefix student.backbone."),
        (
            {**under("student.backbone.", trained()), **under("teacher.backbone.", trained(1, blocks=3))},
            "prefix student.backbone.; left out: teacher.backbone.conv1.weight, teacher.backbone.conv1.bias, "
            "teacher.backbone.layer1.0.0.weight, teacher.backbone.layer1.0.0.bias, teacher.backbone.layer1.0.1.weight "
            "and 20 more",
        ),
        ({**trained(), **HEAD}, "the top level; left out: head.weight"),
        ({**under("module.", {**trained(), **PROJECTOR})}, "prefix module.; left out: module.projector.0.weight"),
        ({**under("0.", trained()), "1.weight": torch.zeros(3)}, "prefix 0.; left out: 1.weight"),
        ({"epoch": 3, **trained()}, None),
        ({"model": trained(), "state_dict": trained()}, "key model"),  # the same twice
        (
            {"pytorch-lightning_version": "2.0.0", "state_dict": {**under("model.", trained()), **HEAD}},
            "key state_dict, prefix model.; left out: head.weight",
        ),
        (
            {"pytorch-lightning_version": "2.0.0", "state_dict": under("net.", trained()), "ema": trained(1)},
            None,
        ),
        (
            {name.replace("layer1.", "layer1._orig_mod."): tensor for name, tensor in trained().items()},
            "_orig_mod. within some names",
        ),
        (
            {name if name.startswith("fc") else f"features.{name}": tensor for name, tensor in trained().items()},
            "features. within some names",
        ),
    ],
)
def test_what_fits_is_taken_and_one_line_says_under_which_key_and_prefix(
    content: Any, line: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        assert_loads(saved(content), trained())
    said = [message for message in caplog.messages if message.startswith("teacher_ckpt: ")]
    assert said == ([f"teacher_ckpt: weights.pth: weights found at {line}"] if line else [])


def test_safetensors_are_searched_too_whatever_the_file_is_called() -> None:
    content = {**under("student.", trained()), **under("projector.", HEAD)}
    assert_loads(saved(content, "weights.safetensors"), trained())
    Path("weights.safetensors").rename("weights.bin")
    assert_loads(Path("weights.bin"), trained())


def test_numbers_of_numpy_beside_the_weights_are_passed_over() -> None:
    assert_loads(saved({"state_dict": trained(), "best_prec1": np.float64(91.7), "epochs": np.int64(3)}), trained())


def test_a_file_older_than_batch_norm_s_counter_is_read_and_the_counter_starts_at_0() -> None:
    counters = [name for name in trained() if name.endswith("num_batches_tracked")]
    old = {name: tensor for name, tensor in trained().items() if name not in counters}
    expected = old | {name: torch.tensor(0) for name in counters}
    assert_loads(saved({"state_dict": under("module.", old)}), {name: expected[name] for name in trained()})
    del old["layer1.0.1.running_mean"]
    assert "layer1.0.1.running_mean is missing" in refusal(saved(old))
    partly = {name: tensor for name, tensor in trained().items() if name != counters[0]}
    assert f"{counters[0]} is missing" in refusal(saved(partly))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": trained(), "ema": trained(1)}, ("key model; key ema; one expected", "load('weights.pth')['ema']")),
        (
            {"state_dict": under("student.", trained()) | under("teacher.", trained(1))},
            ("prefix student.; key state_dict, prefix teacher.", "if k.startswith('teacher.')"),
        ),
        ({**trained(), "ema": trained(1)}, ("the top level; key ema", "['ema']")),
        ({**trained(), **under("ema.", trained(1))}, ("the top level; prefix ema.", "k.startswith('ema.')")),
    ],
)
def test_of_several_that_fit_with_other_values_none_is_taken(content: Any, said: tuple[str, ...]) -> None:
    message = refusal(saved(content))
    assert message.startswith("teacher_ckpt: weights.pth holds several weights that fit Net: ")
    assert all(part in message for part in said)


def test_the_python_that_the_line_names_saves_those_that_are_meant() -> None:
    state = under("student.", trained()) | under("teacher.", trained(1))
    for name, content in (("a.pth", {"state_dict": state}), ("b.safetensors", state)):
        python = refusal(saved(content, name)).partition("the right ones alone: ")[2]
        exec("import torch, safetensors.torch\n" + python)
        assert_loads(Path("weights.pt"), trained(1))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (trained(blocks=3), "layer1.2.0.weight is not in the network"),
        (under("module.", trained(blocks=3)), "layer1.2.0.weight is not in the network"),
        ({**trained(), "layer2.0.weight": torch.zeros(3)}, "layer2.0.weight is not in the network"),
        ({name: value for name, value in trained().items() if name != "fc.bias"}, "fc.bias is missing"),
        ({**trained(), "fc.weight": torch.zeros(9, 4)}, "fc.weight is 9x4 in the file and 3x4 in the network"),
        ({**trained(), "fc.bias": torch.zeros(3, dtype=torch.int8)}, "fc.bias is int8 in the file and float32 in the"),
        ({**trained(), "fc.bias": torch.zeros(3).to_sparse()}, "fc.bias is sparse_coo float32 in the file"),
        ({**trained(), "fc.bias": torch.zeros(3, device="meta")}, "fc.bias is empty float32 in the file"),
    ],
)
def test_a_larger_network_of_the_kind_and_one_that_lacks_something_are_refused(content: Any, problem: str) -> None:
    """Equal blocks make a part of a deeper network fit a shallower one, whose outputs would then be noise."""
    assert problem in refusal(saved(content))


def test_the_index_of_several_files_is_named() -> None:
    Path("model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert "is the index of a state dict in several files" in refusal(Path("model.safetensors.index.json"))


def test_layers_of_a_deeper_perceptron_are_no_head_beside() -> None:
    torch.save(MLP([4, 4, 4]).state_dict(), "weights.pth")
    assert "linear2.weight is not in the network" in refusal(Path("weights.pth"), MLP([4, 4]))


def test_a_content_that_refers_to_itself_or_fans_out_is_searched_once() -> None:
    content: dict[str, Any] = {"state_dict": trained()}
    content["again"] = content
    level: dict[str, Any] = {"x": torch.zeros(1)}
    for _ in range(40):
        level = {str(number): level for number in range(40)}
    assert_loads(saved({**content, "wide": level}), trained())
