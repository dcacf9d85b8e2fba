from itertools import count

import pytest
import torch
from torch import nn

from kd_lightning.utils import latency
from kd_lightning.utils.latency import measure_latency

CPU = torch.device("cpu")


class Watched(nn.Module):
    """A network that remembers what it was shown, and in which state."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.frozen = nn.BatchNorm2d(3).eval()
        self.images: list[torch.Tensor] = []
        self.states: set[tuple[bool, bool]] = set()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.images.append(image)
        self.states.add((self.norm.training, torch.is_grad_enabled()))
        return self.frozen(self.norm(image + torch.rand(())))


class Broken(Watched):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no memory")


def with_clock(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Let a pass take `step` seconds."""
    monkeypatch.setattr(latency, "perf_counter", count(0.0, step).__next__)


@pytest.mark.parametrize("batch_size", [1, 128])
def test_the_network_sees_one_batch_of_the_size_again_and_again_in_evaluation_mode(batch_size: int) -> None:
    network = Watched()
    assert measure_latency(network, (3, 4, 5), batch_size, CPU) > 0
    assert {image.shape for image in network.images} == {(batch_size, 3, 4, 5)}
    assert network.states == {(False, False)}
    assert all(image is network.images[0] for image in network.images)
    assert network.images[0].std() == pytest.approx(1, abs=0.3)  # neither blank nor denormal


@pytest.mark.parametrize("network", [Watched(), Broken()], ids=["measured", "failed"])
def test_modes_statistics_gradients_and_random_state_are_as_before(network: Watched) -> None:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    if isinstance(network, Broken):
        with pytest.raises(RuntimeError, match="no memory"):
            measure_latency(network, (3, 2, 2), 4, CPU)
    else:
        measure_latency(network, (3, 2, 2), 4, CPU)
    assert (network.training, network.norm.training, network.frozen.training) == (True, True, False)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("seconds", "passes"), [(0.001, 100), (0.03, 17), (0.2, 5), (60.0, 5)])
def test_a_fast_network_is_timed_often_and_a_slow_one_a_few_times(
    monkeypatch: pytest.MonkeyPatch, seconds: float, passes: int
) -> None:
    with_clock(monkeypatch, seconds)
    network = Watched()
    assert measure_latency(network, (3, 2, 2), 4, CPU) == pytest.approx(1000 * seconds)
    assert len(network.images) == 1 + passes  # the first is not timed


def test_a_slow_pass_among_others_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.5, 1.0, 1.5, 2.0, 62.0, 63.0, 63.5, 64.0, 64.5])
    monkeypatch.setattr(latency, "perf_counter", clock.__next__)
    assert measure_latency(Watched(), (3, 2, 2), 4, CPU) == 500


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_images_have_the_type_of_the_weights(dtype: torch.dtype) -> None:
    network = Watched().to(dtype)
    measure_latency(network, (3, 2, 2), 4, CPU)
    assert network.images[0].dtype == dtype
    assert measure_latency(nn.Flatten(), (3, 2, 2), 4, CPU) > 0  # it has no weights


def test_a_device_that_works_by_itself_is_waited_for_before_and_after_each_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: events.append(device.type))
    monkeypatch.setattr(latency, "perf_counter", lambda: events.append("clock") or 0.1 * len(events))
    network = Watched().to("meta")
    measure_latency(network, (3, 2, 2), 4, torch.device("meta"))
    assert events[:8] == 2 * ["meta", "clock", "meta", "clock"]
    assert network.images[0].device.type == "meta"


def test_a_batch_that_a_network_cannot_read_is_its_own_error() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        measure_latency(network, (3, 4, 4), 1, CPU)
    assert measure_latency(network, (3, 4, 4), 128, CPU) > 0
