"""What Lightning's callbacks do to the weights is tested, exported and resumed; or it is refused in one line."""

import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BaseFinetuning

from kd_lightning.__main__ import main
from kd_lightning.checkpoints.digest import weights_digest
from kd_lightning.cli import lightning
from kd_lightning.reports.results import read_results
from tests.callbacks.test_last_checkpoint import LAST, fit


class Thaw(BaseFinetuning):
    """Trains the first layer from the second epoch on."""

    def freeze_before_training(self, module: Any) -> None:
        self.freeze(next(module.net.children()))

    def finetune_function(self, module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(next(module.net.children()), optimizer)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def given(name: str, **options: Any) -> list[str]:
    options_words = [f"--trainer.callbacks.{option}={value}" for option, value in options.items()]
    return [f"--trainer.callbacks+={name}", *options_words]


PRUNING = given("ModelPruning", pruning_fn="l1_unstructured", amount=0.3)

SUPPORTED = {
    "averages": given("WeightAveraging"),
    "exponential averages": given("EMAWeightAveraging", decay=0.9),
    "finetuning": given("tests.callbacks.test_unsupported.Thaw"),
    "accumulation by epoch": given("GradientAccumulationScheduler", scheduling="{0: 1, 1: 4}"),
}


def assert_same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def kept() -> Any:
    return torch.load(LAST, weights_only=True)["state_dict"]


@pytest.mark.parametrize("words", [*SUPPORTED.values(), PRUNING], ids=[*SUPPORTED, "pruning"])
def test_what_was_trained_is_what_is_kept_and_resumed(words: list[str]) -> None:
    module = fit(*words).model
    expected = kept()
    assert_same(module.state_dict(), expected)
    fit(*words, "--model.steps_at_once=4")
    assert_same(kept(), expected)
    if words != PRUNING:
        fit(*words, "--trainer.max_steps=9")
        fit(*words, f"--ckpt_path={LAST}")
        assert_same(kept(), expected)


def test_averages_are_tested_behind_their_training_and_later() -> None:
    words = [*SUPPORTED["averages"], "--data.val_size=0", "--trainer.max_epochs=2"]
    trained = fit(*words)
    averages = trained.model.state_dict()
    (expected,) = trained.trainer.test(trained.model, trained.datamodule, verbose=False)
    for done in (trained, lightning.main(["test", "--config=config.yaml", *words, "--verbose=false"])):
        (found,) = done.trainer.test(done.model, done.datamodule, ckpt_path=str(LAST), verbose=False)
        assert found == expected
        assert_same(done.model.state_dict(), averages)


class Watch(Callback):
    """Notes the weights after each step."""

    seen: ClassVar[list[Any]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.seen.append({name: weight.detach().clone() for name, weight in module.net.state_dict().items()})


@pytest.mark.slow
def test_exponential_averages_are_what_is_tested_and_exported() -> None:
    Watch.seen = []
    watch = "--trainer.callbacks+=tests.callbacks.test_unsupported.Watch"
    trained = fit(watch, *SUPPORTED["exponential averages"], "--data.val_size=0", "--trainer.max_epochs=2")
    expected, *later = Watch.seen  # the first update copies the weights
    for weights in later:
        expected = {name: 0.9 * average + 0.1 * weights[name] for name, average in expected.items()}
    for name, tensor in kept().items():
        assert torch.allclose(tensor, expected[name.removeprefix("net.")], atol=1e-6)
        assert not torch.allclose(tensor, Watch.seen[-1][name.removeprefix("net.")], atol=1e-6)
    run = LAST.parents[1]
    assert main(["test", f"--config={run}/config.yaml", "--verbose=false"]) == 0
    results = read_results(run)
    assert results["measured_on"]["weights"] == weights_digest(trained.model.net)
    assert main(["export", str(run), "--format=torch"]) == 0
    exported = torch.export.load(run / "export/model.pt2").state_dict
    for average in expected.values():
        same_shape = [tensor for tensor in exported.values() if tensor.shape == average.shape]
        assert any(torch.allclose(tensor, average, atol=1e-6) for tensor in same_shape)
    assert read_results(run)["export"]["forms"]["model.pt2"]["errors"] == results["test"]["errors"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            given("StochasticWeightAveraging", swa_lrs=0.05),
            "trainer.callbacks: StochasticWeightAveraging found, WeightAveraging or EMAWeightAveraging expected",
        ),
        (
            given("BackboneFinetuning"),
            "trainer.callbacks: BackboneFinetuning found, a BaseFinetuning of your own expected",
        ),
        (
            given("LearningRateFinder"),
            "trainer.callbacks: LearningRateFinder found, which sets the attribute `lr` of a module, and TeacherModule",
        ),
        (
            given("BatchSizeFinder"),
            "trainer.callbacks: BatchSizeFinder found, none expected: its trials step the schedule of the training",
        ),
        (
            [*PRUNING, f"--ckpt_path={LAST}"],
            "trainer.callbacks: ModelPruning found, none expected with --ckpt_path: a checkpoint does not",
        ),
    ],
    ids=["swa", "backbone", "rate", "batch size", "pruning resumed"],
)
def test_what_is_not_supported_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.max_epochs=1")
    assert main(["fit", "--config=config.yaml", *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"kd-lightning: error: {message}")
