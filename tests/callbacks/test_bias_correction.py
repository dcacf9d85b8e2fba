import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from torch import Tensor, nn

# `optimal_bias` is reached through its module: pytest would take it for a test.
from kd_lightning.callbacks import bias_correction
from kd_lightning.callbacks.bias_correction import BiasCorrection, frequency_bias
from kd_lightning.modules import TeacherModule
from kd_lightning.reports.results import read_results
from tests.data.made import made


def made_logits() -> tuple[Tensor, Tensor]:
    """Logits of 400 images in 4 classes, of which the last was left out of training, and the labels."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(4, (400,), generator=generator)
    logits = 2 * torch.randn(400, 4, generator=generator)
    logits[range(400), label] += 4
    logits[:, 3] -= 7
    return logits, label


@pytest.mark.parametrize("classes", [[3], [1, 2], [0, 1, 2], [0, 1, 2, 3]])
def test_the_frequency_rule_brings_the_mean_probability_to_the_frequency(classes: list[int]) -> None:
    logits, label = made_logits()
    frequency = label.bincount(minlength=4) / 400
    before = logits.softmax(dim=-1).mean(dim=0)
    assert before[3] < 0.05 < frequency[3]
    bias = frequency_bias(logits, frequency, torch.tensor(classes))
    mass = (logits.double() + bias).softmax(dim=-1).mean(dim=0).float()
    torch.testing.assert_close(mass[classes], frequency[classes], rtol=0, atol=1e-5)
    others = [c for c in range(4) if c not in classes]
    assert bias[others].tolist() == [0.0] * len(others)


def test_the_frequency_rule_finds_the_offset_that_one_distribution_needs() -> None:
    logits = torch.tensor([[0.0, 0.0, -5.0]]).repeat(3, 1)
    bias = frequency_bias(logits, torch.tensor([0.5, 0.25, 0.25]), torch.tensor([2]))
    # exp(b - 5) / (2 + exp(b - 5)) = 1/4
    assert bias.tolist() == pytest.approx([0.0, 0.0, 5 + math.log(2 / 3)], abs=1e-5)


def test_the_test_optimal_rule_picks_the_smallest_offset_that_makes_the_fewest_errors() -> None:
    logits, label = torch.tensor([[1.03, 0.0], [2.57, 0.0]]), torch.tensor([1, 0])
    bias = bias_correction.optimal_bias(logits, label, torch.tensor([1]))  # right between 1.03 and 2.57
    assert bias.tolist() == pytest.approx([0.0, 1.1])


def test_the_test_optimal_rule_lowers_what_is_too_high_and_all_its_classes_alike() -> None:
    logits, label = torch.tensor([[0.0, 1.03, 0.5], [0.0, 0.2, 3.42]]), torch.tensor([0, 2])
    bias = bias_correction.optimal_bias(logits, label, torch.tensor([1, 2]))
    assert bias.tolist() == pytest.approx([0.0, -1.1, -1.1])


def test_the_test_optimal_rule_leaves_alone_what_no_offset_betters() -> None:
    logits, label = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    assert bias_correction.optimal_bias(logits, label, torch.tensor([1])).tolist() == [0.0, 0.0]


def test_neither_rule_changes_the_logits_it_is_given() -> None:
    logits, label = made_logits()
    before = logits.clone()
    frequency_bias(logits, label.bincount() / 400, torch.tensor([3]))
    bias_correction.optimal_bias(logits, label, torch.tensor([3]))
    assert torch.equal(logits, before)


def run_test(folder: Path, **options: Any) -> dict[str, Any]:
    """Test a network that says the same of every image: logits 0, 0 and -5."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    nn.init.zeros_(network[1].weight)
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([0.0, 0.0, -5.0]))
    module, data = TeacherModule(network), made("test", **options)
    trainer: Any = SimpleNamespace(datamodule=data, is_global_zero=True, logger=None, log_dir=folder)
    trainer.precision_plugin = Precision()
    callback = BiasCorrection()
    callback.on_test_epoch_start(trainer, module)
    for i, index in enumerate(data.test_dataloader()):
        batch = data.make_batch(index, train=False)
        callback.on_test_batch_end(trainer, module, module(batch.image).detach(), batch, i)
    callback.on_test_end(trainer, module)
    return read_results(folder)


def test_a_test_reports_both_rules_beside_the_network_as_trained(tmp_path: Path) -> None:
    figures = run_test(tmp_path, omit_classes=[2], eval_batch_size=4)["bias_correction"]
    assert figures["classes"] == ["cow"]
    # Of the labels 0 1 2 2 1 0 class 0 is right, whatever the offset, up to the one at which class 2 is instead.
    assert figures["as_trained"] == {"errors": 4, "class_errors": 2, "bias": {"cow": 0.0}}
    assert figures["test_optimal"] == {"errors": 4, "class_errors": 2, "bias": {"cow": 0.0}}
    # 4 of the 24 training labels: exp(b - 5) / (2 + exp(b - 5)) = 1/6.
    assert figures["frequency"]["bias"]["cow"] == pytest.approx(5 + math.log(2 / 5), abs=1e-3)


def test_where_fewer_classes_were_kept_theirs_are_the_offsets(tmp_path: Path) -> None:
    figures = run_test(tmp_path, only_classes=[0])["bias_correction"]
    assert figures["classes"] == ["ant"]
    # 12 of the 24 training labels: exp(b) = 1 + exp(-5).
    assert figures["frequency"]["bias"]["ant"] == pytest.approx(math.log(1 + math.exp(-5)), abs=1e-3)


def test_the_training_images_are_shown_in_the_precision_of_the_test() -> None:
    data = made("test", omit_classes=[2])
    module = TeacherModule(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))
    trainer: Any = SimpleNamespace(precision_plugin=MixedPrecision("bf16-mixed", "cpu"))
    logits, label = bias_correction._training_set(data, trainer, module)
    with torch.no_grad():
        expected = module(data.make_batch(torch.arange(24)).image)
    assert len(logits) == len(label) == 24
    assert not torch.equal(logits, expected)
    assert torch.equal(logits, logits.bfloat16().float())


def test_where_training_saw_every_class_nothing_is_written(tmp_path: Path) -> None:
    assert run_test(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_the_frequency_rule_holds_where_all_predictions_are_nearly_certain() -> None:
    torch.manual_seed(0)
    label = torch.arange(400) % 4
    logits = torch.randn(400, 4) * 10
    logits[torch.arange(400), label] += 20
    logits[:, 2] -= 30
    frequency, classes = torch.full((4,), 0.25), torch.tensor([1, 2, 3])
    bias = bias_correction.frequency_bias(logits, frequency, classes)
    mass = (logits.double() + bias).softmax(dim=-1).mean(dim=0)
    torch.testing.assert_close(mass, frequency.double(), atol=1e-4, rtol=0)
