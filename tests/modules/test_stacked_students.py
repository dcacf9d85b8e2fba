"""Students trained at once are those that would have been trained alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.errors import UserError
from kd_lightning.losses import soft_target_loss, soft_target_losses
from kd_lightning.models import CNN, MLP
from kd_lightning.modules import PopulationModule
from kd_lightning.modules.stack import Stack, why_not_stacked
from kd_lightning.modules.stacked_students import MembersEvaluation, cross_entropies

MEMBERS = [[1.0, 0.5, 0], [4.0, 0.5, 0], [4.0, 0.9, 1], [8.0, 0.0, 2]]
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}}
COSINE = {"class_path": "kd_lightning.schedules.CosineDecay", "init_args": {"warmup": 0.2}}


@pytest.fixture(autouse=True)
def _teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    torch.save(MLP([64, 16, 10]).state_dict(), "teacher.pt")


def fit(module: str, seed: int, net: dict[str, Any], **options: Any) -> Any:
    words = {
        "seed_everything": seed,
        "model": {
            "class_path": f"kd_lightning.modules.{module}",
            "init_args": {
                "net": net,
                "teacher": {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 16, 10]}},
                "teacher_ckpt": "teacher.pt",
                "hard_weight": 0.2,
                **options,
            },
        },
        "data": {
            "class_path": "kd_lightning.data.DigitsDataModule",
            "init_args": {
                "train_size": 200,
                "val_size": 100,
                "seed": 5,
                "views": {"class_path": "kd_lightning.data.Shift"},
            },
        },
        "trainer": {"max_epochs": 3, "logger": False, "enable_checkpointing": False, "enable_model_summary": False},
    }
    return lightning.main(["fit", f"--config={json.dumps(words)}"])


@pytest.mark.parametrize(
    ("net", "options"),
    [
        ({"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 8, 10]}}, {}),
        (
            {"class_path": "kd_lightning.models.CNN", "init_args": {"channels": [3], "hidden": [8], "image_size": 8}},
            {"optimizer": SGD, "lr_scheduler": COSINE, "steps_at_once": 4},
        ),
    ],
    ids=["mlp", "cnn"],
)
def test_each_member_has_the_weights_and_figures_of_the_student_trained_alone(
    net: dict[str, Any], options: dict[str, Any]
) -> None:
    population = fit("PopulationModule", 7, net, members=MEMBERS, **options)
    for number, (temperature, soft_weight, seed) in enumerate(MEMBERS):
        alone = fit("DistillModule", seed, net, temperature=temperature, soft_weight=soft_weight, **options)
        student = population.model.student(number)
        assert type(student) is type(alone.model.net)
        for name, weight in alone.model.net.state_dict().items():
            torch.testing.assert_close(student.state_dict()[name], weight, rtol=1e-4, atol=1e-5)
        figures = alone.trainer.callback_metrics
        assert population.model.figures["accuracy"][number].item() == pytest.approx(figures["val/accuracy"].item())
        assert population.model.figures["nll"][number].item() == pytest.approx(figures["val/nll"].item(), rel=1e-4)


def test_the_losses_of_several_students_are_those_of_each() -> None:
    torch.manual_seed(0)
    logits, teacher, label = torch.randn(3, 5, 4), torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    temperature = torch.tensor([0.5, 1.0, 20.0])
    each = [soft_target_loss(its, teacher, t) for its, t in zip(logits, temperature.tolist(), strict=True)]
    torch.testing.assert_close(soft_target_losses(logits, teacher, temperature), torch.stack(each))
    hard = [nn.functional.cross_entropy(its, label) for its in logits]
    torch.testing.assert_close(cross_entropies(logits, label), torch.stack(hard))
    # Two classes, even and 3 to 1: KL = ln(2 / sqrt 3) at T = 1; at T = 2 the teacher's odds are sqrt 3 to 1.
    even, odds = torch.zeros(2, 1, 2), torch.tensor([[3.0, 1.0]]).log()
    expected = torch.tensor([0.75 * 1.5 - 0.0, 0.0])
    expected[0] = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    p = 3**0.5 / (1 + 3**0.5)
    expected[1] = 4 * (p * torch.tensor(2 * p).log() + (1 - p) * torch.tensor(2 * (1 - p)).log())
    torch.testing.assert_close(soft_target_losses(even, odds, torch.tensor([1.0, 2.0])), expected)


def test_figures_of_members_are_over_all_batches() -> None:
    metric = MembersEvaluation(2)
    sure = torch.tensor([[[9.0, 0.0], [0.0, 9.0]], [[0.0, 0.0], [9.0, 0.0]]])
    metric.update(sure, torch.tensor([0, 1]))
    metric.update(sure[:, :1], torch.tensor([1]))
    figures = metric.compute()
    torch.testing.assert_close(figures["accuracy"], torch.tensor([2 / 3, 1 / 3]))
    right, wrong, even = (torch.tensor(x).exp().log1p() for x in (-9.0, 9.0, 0.0))
    torch.testing.assert_close(figures["nll"], torch.stack([2 * right + wrong, 2 * even + wrong]) / 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP([64, 8, 10]),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8, bias=False), nn.ReLU(), nn.Linear(8, 10, bias=False)),
        lambda: nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3), nn.Flatten(), nn.Linear(24, 10)),
        lambda: CNN([3], hidden=[8], image_size=8),
    ],
    ids=["mlp", "no bias", "pixel by pixel", "cnn"],
)
def test_a_stack_answers_and_learns_as_its_networks_do(make: Callable[[], nn.Module]) -> None:
    networks = [make() for _ in range(3)]
    image, slope = torch.randn(4, 1, 8, 8), torch.randn(3, 4, 10)
    stack = Stack(networks)
    alone = torch.stack([network(image) for network in networks])
    torch.testing.assert_close(stack(image), alone)
    (stack(image) * slope).sum().backward()
    (alone * slope).sum().backward()
    for name, weight in zip(stack.names, stack.weights, strict=True):
        assert weight.grad is not None
        assert weight.grad.is_contiguous()
        torch.testing.assert_close(weight.grad, torch.stack([n.get_parameter(name).grad for n in networks]))
    assert len(networks) * sum(w.numel() for w in networks[0].parameters()) == sum(w.numel() for w in stack.weights)
    networks[1].load_state_dict(stack.member(1))


class Odd(nn.Module):
    """Looks at the values of its input, which a stack does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = image.flatten(1)[:, :2] * self.weight
        return logits if logits.sum() >= 0 else -logits


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (MLP([64, 8, 10]), ""),
        (CNN([3], hidden=[8], image_size=8), ""),
        (MLP([64, 8, 10], hidden_dropout=0.5), "MLP drops units at random (Dropout)"),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), "Sequential has buffers (1.running_mean)"),
        (Odd(), "Odd cannot be stacked (vmap: "),
    ],
    ids=["mlp", "cnn", "dropout", "batch norm", "data-dependent"],
)
def test_what_keeps_a_network_from_a_stack_is_said(network: nn.Module, reason: str) -> None:
    found = why_not_stacked(network.train(), torch.zeros(2, 1, 8, 8))
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_no_members_and_losses_that_are_not_the_population_s_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    base = [
        "fit",
        "--model=kd_lightning.modules.PopulationModule",
        "--model.net=kd_lightning.models.MLP",
        "--model.net.widths=[64,8,10]",
        "--model.teacher=kd_lightning.models.MLP",
        "--model.teacher.widths=[64,16,10]",
        "--model.teacher_ckpt=teacher.pt",
        "--data=kd_lightning.data.DigitsDataModule",
    ]
    assert main([*base, "--model.members=[]"]) == 2
    assert "members: none found" in capsys.readouterr().err
    assert main([*base, "--model.members=[[1,1,0]]", "--model.soft_loss=torch.nn.functional.kl_div"]) == 2
    assert "Option 'soft_loss' is not accepted" in capsys.readouterr().err
    population = PopulationModule(lambda: MLP([64, 8, 10]), MLP([64, 16, 10]), "teacher.pt", [(1.0, 1.0, 0)])
    with pytest.raises(UserError, match="test: a population found, a single student expected"):
        population.setup("test")
