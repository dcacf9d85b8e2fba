import gc
import weakref
from collections import OrderedDict

import pytest
import torch
from torch import nn

from kd_lightning.errors import UserError
from kd_lightning.models import CNN, MLP
from kd_lightning.modules.feature_hooks import record_outputs

OPTION = "features: student_layer"


def hooks(network):
    return sum(len(module._forward_hooks) for module in network.modules())


def test_what_a_layer_gives_is_collected_by_its_path():
    network, image = CNN([2, 3], image_size=8), torch.randn(4, 1, 8, 8)
    with record_outputs(network, ["pool1", "classifier"], OPTION) as outputs:
        logits = network(image)
        assert set(outputs) == {"pool1", "classifier"}
        assert torch.equal(outputs["pool1"], nn.Sequential(*list(network)[:3])(image))
        assert torch.equal(outputs["classifier"], logits)


def test_a_path_leads_into_inner_networks():
    inner = CNN([2], image_size=8)
    network, image = nn.Sequential(OrderedDict(body=nn.Sequential(inner))), torch.randn(2, 1, 8, 8)
    with record_outputs(network, ["body.0.conv1"], OPTION) as outputs:
        network(image)
        assert torch.equal(outputs["body.0.conv1"], inner.conv1(image))


def test_only_the_latest_run_is_kept():
    network, images = MLP([4, 3]), torch.randn(2, 5, 4)
    with record_outputs(network, ["linear1"], OPTION) as outputs:
        network(images[0])
        network(images[1])
        assert torch.equal(outputs["linear1"], network(images[1]))


def test_gradients_flow_through_what_was_record_outputs():
    network = MLP([4, 3, 2])
    with record_outputs(network, ["relu1"], OPTION) as outputs:
        network(torch.randn(5, 4))
        outputs["relu1"].sum().backward()
    assert network.linear1.weight.grad.abs().sum() > 0
    assert network.linear2.weight.grad is None


def test_an_activation_in_place_behind_a_layer_does_not_change_what_was_record_outputs():
    network, image = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(inplace=True)), torch.tensor([[1.0, 1.0]])
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -3.0]]))
    with record_outputs(network, ["0", "1"], OPTION) as outputs:
        network(image)
        assert outputs["0"].tolist() == [[1.0, -3.0]]
        assert outputs["1"].tolist() == [[1.0, 0.0]]
        outputs["0"].sum().backward()
    assert network[0].weight.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]  # the activation has no part in it


def test_nothing_is_left_on_the_network_and_no_output_is_held():
    network = MLP([4, 3])
    with record_outputs(network, ["linear1"], OPTION) as outputs:
        network(torch.randn(5, 4))
        assert hooks(network) == 1
        held = weakref.ref(outputs["linear1"])
    gc.collect()
    assert held() is None
    assert hooks(network) == 0
    with pytest.raises(RuntimeError), record_outputs(network, ["linear1"], OPTION):
        network(torch.randn(5, 3))
    assert hooks(network) == 0


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("conv", "conv2, conv1"),
        ("conv2.0", "conv2"),
        ("features", "conv1, conv_relu1, pool1, conv2, conv_relu2, pool2, flatten, linear1, relu1, classifier"),
        ("conv1.weight", "conv_relu1"),
    ],
)
def test_a_layer_that_does_not_exist_is_refused_with_those_of_a_like_name_or_the_first_level_s(path, known):
    network = CNN([2, 3])
    expected = rf"^{OPTION} {path} found, a layer of CNN expected, such as .*"
    with pytest.raises(UserError, match=expected) as refusal, record_outputs(network, ["conv1", path], OPTION):
        pass
    assert known in str(refusal.value)
    assert hooks(network) == 0


def test_a_layer_that_gives_no_tensor_is_refused():
    network = nn.Sequential(nn.LSTM(2, 3))
    with (
        pytest.raises(UserError, match=f"{OPTION} 0 returns a tuple, a layer that returns a tensor expected"),
        record_outputs(network, ["0"], OPTION),
    ):
        network(torch.zeros(1, 2))


class Idle(nn.Module):
    """Has a layer that it never runs."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(2, 2)

    def forward(self, image):
        return image


def test_a_layer_that_never_runs_is_refused_where_its_output_is_asked_for():
    network = Idle()
    with record_outputs(network, ["unused"], OPTION) as outputs:
        network(torch.zeros(1, 2))
        with pytest.raises(UserError, match=f"{OPTION} unused has no output when the network runs"):
            outputs["unused"]
