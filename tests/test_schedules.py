import math
from typing import Any

import pytest
import torch

from kd_lightning.schedules import CosineDecay, StepDecay


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


def test_steps_are_those_of_fixed_epochs_whatever_the_length_of_the_run() -> None:
    fixed = torch.optim.lr_scheduler.MultiStepLR(optimizer(0.05), [150, 180, 210])
    found = StepDecay(optimizer(0.05), total_steps=240 * 5)  # 5 steps an epoch
    for epoch in range(240):
        assert found.get_last_lr() == pytest.approx(fixed.get_last_lr(), rel=1e-12), epoch
        for schedule in (fixed, *[found] * 5):
            schedule.optimizer.step()
            schedule.step()
    short = StepDecay(optimizer(1.0), at=[0.5, 0.75], decay=0.5)
    short.run_for(4)
    assert [short.factor(step) for step in range(5)] == [1.0, 1.0, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"at": [0.5, 1.0]}, "at must be fractions of the run"), ({"decay": 0.0}, "decay must be in")],
)
def test_a_step_outside_of_the_run_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepDecay(optimizer(1.0), **options)
