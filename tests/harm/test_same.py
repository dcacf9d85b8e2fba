"""The same seed on the same machine gives the same figures, whatever else is different."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kd_lightning.cli import lightning
from kd_lightning.models import CNN, MLP
from kd_lightning.modules import PopulationModule


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    torch.save(CNN([4], hidden=[16], image_size=8).state_dict(), "teacher.pt")
    network = "kd_lightning.models.MLP", {"widths": [64, 16, 10], "hidden_dropout": 0.3}
    teacher = "kd_lightning.models.CNN", {"channels": [4], "hidden": [16], "image_size": 8}
    net, teacher_net = ({"class_path": path, "init_args": options} for path, options in (network, teacher))
    data = {"train_size": 400, "val_size": 100, "batch_size": 20, "views": {"class_path": "kd_lightning.data.Shift"}}
    config = {
        "seed_everything": 3,
        "threads": 1,
        "model": {
            "class_path": "kd_lightning.modules.DistillModule",
            "init_args": {"net": net, "teacher": teacher_net, "teacher_ckpt": str(tmp_path / "teacher.pt")},
        },
        "data": {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": data},
        "trainer": {"max_epochs": 4, "accelerator": "cpu", "logger": False, "enable_model_summary": False},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))


def fit(*options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights and the figures that a training leaves."""
    trained = lightning.main(["fit", "--config=config.yaml", "--trainer.enable_checkpointing=false", *options])
    return trained.model.net.state_dict(), trained.trainer.callback_metrics


def forget() -> None:
    for file in Path().glob("teacher.pt.logits-*"):
        file.unlink()


def assert_same(one: Any, other: Any) -> None:
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert one[1] == other[1]


def test_twice() -> None:
    first = fit()
    forget()
    assert_same(fit(), first)


def test_with_workers() -> None:
    first = fit()
    forget()
    assert_same(fit("--data.num_workers=2"), first)


def test_with_answers_that_its_own_seed_left() -> None:
    assert_same(fit(), fit())


@pytest.mark.parametrize("before", ["--seed_everything=4", "--model.cache_teacher=all"])
def test_with_answers_that_were_asked_for_among_others(before: str) -> None:
    """Asked among other images, an answer may be rounded otherwise: the figures are the same to that."""
    weights, figures = fit()
    forget()
    fit(before)
    warm_weights, warm_figures = fit()
    for name, weight in weights.items():
        torch.testing.assert_close(warm_weights[name], weight, rtol=1e-4, atol=1e-5)
    for name in ("val/accuracy", "train/accuracy"):
        assert warm_figures[name] == figures[name]


def state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_the_teacher_is_what_it_was_after_all_that_is_done_with_it() -> None:
    built = lightning.build(["fit", "--config=config.yaml"])
    before = torch.load("teacher.pt", weights_only=True)
    trainer, model, data = built.trainer, built.model, built.datamodule
    trainer.fit(model, data)
    assert_equal(state(model.teacher.network), before)
    trainer.validate(model, data, verbose=False)
    trainer.test(model, data, verbose=False)
    trainer.predict(model, data)
    assert_equal(state(model.teacher.network), before)
    population = PopulationModule(lambda: MLP([64, 8, 10]), model.teacher.network, "teacher.pt", [(2.0, 0.5, 0)])
    lightning.build(["fit", "--config=config.yaml", "--trainer.max_epochs=1"]).trainer.fit(population, data)
    assert_equal(state(population.teacher.network), before)
    assert_equal(torch.load("teacher.pt", weights_only=True), before)


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
