import math

import pytest
import torch

from kd_lightning.schedules import CosineDecay


def optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def factors(schedule: CosineDecay, steps: int) -> list[float]:
    return [schedule.factor(step) for step in range(steps)]


def test_without_warmup_the_rate_falls_by_half_a_cosine_to_zero() -> None:
    schedule = CosineDecay(optimizer(1.0), total_steps=4)
    root = math.sqrt(0.5)
    assert factors(schedule, 5) == pytest.approx([1.0, (1 + root) / 2, 0.5, (1 - root) / 2, 0.0], abs=1e-12)


def test_with_warmup_it_rises_to_the_peak_first() -> None:
    schedule = CosineDecay(optimizer(1.0), warmup=0.5, total_steps=6)
    assert factors(schedule, 7) == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1.0, 3 / 4, 1 / 4, 0.0], abs=1e-12)


def test_past_the_end_it_stays_at_zero() -> None:
    schedule = CosineDecay(optimizer(1.0), warmup=0.1, total_steps=10)
    assert factors(schedule, 25)[10:] == pytest.approx([0.0] * 15, abs=1e-12)
    assert min(factors(schedule, 25)) >= 0


def test_before_the_length_is_known_the_rate_is_the_peak() -> None:
    assert factors(CosineDecay(optimizer(1.0), warmup=0.5), 3) == [1.0, 1.0, 1.0]


def test_stepping_sets_each_groups_rate_to_the_fraction_of_its_own_peak() -> None:
    groups = optimizer(0.4, 0.1)
    schedule = CosineDecay(groups, total_steps=2)
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in groups.param_groups])
        groups.step()
        schedule.step()
    for found, expected in zip(rates, [[0.4, 0.1], [0.2, 0.05], [0.0, 0.0], [0.0, 0.0]], strict=True):
        assert found == pytest.approx(expected, abs=1e-12)


def test_a_resumed_schedule_goes_on_where_it_was() -> None:
    schedule = CosineDecay(optimizer(1.0), warmup=0.25, total_steps=8)
    for _ in range(3):
        schedule.optimizer.step()
        schedule.step()
    resumed = CosineDecay(optimizer(1.0))
    resumed.load_state_dict(schedule.state_dict())
    assert resumed.last_epoch == 3
    assert factors(resumed, 9) == factors(schedule, 9)


def test_the_first_step_of_a_run_of_unknown_length_has_its_own_rate_too() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = CosineDecay(optimizer, warmup=0.5)
    schedule.run_for(8)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    # (step + 1) / (4 + 1) while warming up, then half a cosine over the other four steps.
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.8535534, 0.5, 0.1464466])


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_a_warm_up_outside_0_to_1_is_refused(warmup: float) -> None:
    with pytest.raises(ValueError, match=r"warmup must be in \[0, 1\)"):
        CosineDecay(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), warmup=warmup)
