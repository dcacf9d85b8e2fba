"""Properties of configs with random options."""

from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning

HUNDREDTHS = st.integers(0, 100_000).map(lambda number: number / 100)
"""In place of hypothesis's floats, which include subnormal numbers, which this project flushes to 0."""

CONFIG = Path(__file__).parents[1] / "configs" / "digits" / "distill.yaml"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HUNDREDTHS.filter(bool), HUNDREDTHS, st.integers(1, 1000), st.booleans())
def test_a_written_config_is_read_back_unchanged(
    temperature: float, soft_weight: float, batch_size: int, cached: bool
) -> None:
    options = [
        f"--model.temperature={temperature!r}",
        f"--model.soft_weight={soft_weight!r}",
        f"--data.batch_size={batch_size}",
        f"--model.cache_teacher={str(cached).lower()}",
    ]
    said = lightning.parse(["fit", f"--config={CONFIG}", *options])
    given_options = said["model"]["init_args"], said["data"]["init_args"]
    assert (given_options[0]["temperature"], given_options[0]["soft_weight"]) == (temperature, soft_weight)
    assert (given_options[0]["cache_teacher"], given_options[1]["batch_size"]) == (cached, batch_size)
    Path("again.yaml").write_text(yaml.safe_dump(said))
    assert lightning.parse(["fit", "--config=again.yaml"]) == said


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["temperature", "hard_weight", "soft_weight", "steps_at_once"]),
    HUNDREDTHS.map(lambda number: -number - 0.01),
)
def test_values_out_of_range_are_reported_before_training(option: str, value: float) -> None:
    number: float | int = int(value - 1) if option == "steps_at_once" else value
    assert main(["fit", f"--config={CONFIG}", f"--model.{option}={number!r}"]) == 2
    assert not list(Path().iterdir())


def test_parsing_draws_no_random_number_and_sets_no_seed() -> None:
    state = torch.get_rng_state()
    lightning.parse(["fit", f"--config={CONFIG}", "--seed_everything=3"])
    assert torch.equal(torch.get_rng_state(), state)
