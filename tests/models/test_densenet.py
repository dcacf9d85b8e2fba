import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from kd_lightning.errors import UserError
from kd_lightning.models import SmallCNN, densenet121

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def imagenet() -> State:
    """A state dict as torchvision's DenseNet-121 has it today, with its 1000 classes."""
    torch.manual_seed(1)
    state = torchvision.models.densenet121().state_dict()
    state["features.norm5.running_mean"].uniform_()
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


@pytest.mark.parametrize("publish", [dict, as_published])
def test_a_file_s_backbone_is_taken_and_the_head_is_new(tmp_path: Path, imagenet: State, publish: object) -> None:
    assert callable(publish)
    torch.save(publish(imagenet), tmp_path / "weights.pt")
    network = densenet121(str(tmp_path / "weights.pt"), num_classes=3)
    assert_backbone(network, imagenet)
    assert [tuple(layer.weight.shape) for layer in network.classifier] == [(250, 1024), (50, 250), (3, 50)]


def test_a_file_of_this_very_network_is_taken_too(tmp_path: Path) -> None:
    trained = densenet121()
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    assert_backbone(densenet121(str(tmp_path / "weights.pt")), trained.state_dict())


def test_another_network_s_file_is_refused(tmp_path: Path) -> None:
    torch.save(SmallCNN().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"weights.pt does not fit densenet121: features.conv0.weight is missing"):
        densenet121(str(tmp_path / "weights.pt"))
