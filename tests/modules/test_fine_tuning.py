"""Training that starts from other weights: the last layer, frozen parts, rates and weight decay by part."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, OneCycleLR

from kd_lightning.__main__ import main
from kd_lightning.errors import UserError
from kd_lightning.models import MLP
from kd_lightning.modules import PopulationModule, TeacherModule
from kd_lightning.schedules import CosineDecay
from tests.cli.test_choices import refused


class Net(nn.Module):
    """A backbone with batch norm, and a head."""

    def __init__(self, num_classes: int = 10, width: int = 6) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.backbone(image))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    torch.manual_seed(1)


def write(**options: Any) -> str:
    model = {"net": {"class_path": f"{__name__}.Net"}, "optimizer": {"class_path": "torch.optim.AdamW"}, **options}
    config = {
        "seed_everything": 0,
        "model": {"class_path": "kd_lightning.modules.TeacherModule", "init_args": model},
        "data": {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": {"train_size": 64, "batch_size": 32}},
        "trainer": {"max_epochs": 1, "enable_model_summary": False, "accelerator": "cpu"},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    return "--config=config.yaml"


def trained(*words: str) -> dict[str, Tensor]:
    assert main(["fit", *words]) == 0
    run = max(Path("lightning_logs").iterdir())
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return {name.removeprefix("net."): tensor for name, tensor in state.items()}


def test_a_training_starts_from_other_weights_and_keeps_what_is_frozen(caplog: pytest.LogCaptureFixture) -> None:
    published = Net(num_classes=100).state_dict()
    torch.save({"model": published}, "published.pth")
    state = trained(write(init_from="published.pth", freeze=["backbone"]))
    backbone = [name for name in published if name.startswith("backbone.")]
    assert "backbone.2.running_mean" in backbone
    assert all(torch.equal(state[name], published[name]) for name in backbone)
    assert state["head.weight"].shape == (10, 6)
    assert "loaded, but for head.weight and head.bias: the file has other classes" in caplog.text
    caplog.clear()
    Path("published.pth").unlink()  # a resumed training and a test do not read it
    assert main(["test", "--config=config.yaml", "--ckpt_path=lightning_logs/version_0", "--pictures=false"]) == 0
    resume = ["--ckpt_path=lightning_logs/version_0", "--trainer.max_epochs=2"]
    assert torch.equal(trained("--config=config.yaml", *resume)["backbone.1.weight"], published["backbone.1.weight"])


def test_the_last_layer_is_loaded_where_the_classes_are_the_same(caplog: pytest.LogCaptureFixture) -> None:
    state = trained(write())
    again = trained(write(init_from="lightning_logs/version_0", freeze=["backbone", "head.weight"]))
    assert all(torch.equal(state[name], again[name]) for name in state if name != "head.bias" and "num_b" not in name)
    assert "other classes" not in caplog.text


def test_weights_without_a_last_layer_are_loaded() -> None:
    published = {name: tensor for name, tensor in Net().state_dict().items() if not name.startswith("head.")}
    torch.save(published, "embedding.pt")
    state = trained(write(init_from="embedding.pt", freeze=["backbone"]))
    assert torch.equal(state["backbone.1.weight"], published["backbone.1.weight"])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"init_from": "no.pt"}, "init_from: no file or run folder no.pt"),
        (
            {"init_from": "wide.pt"},
            "init_from: the weights in wide.pt do not fit Net: backbone.1.weight is 7x64 in the file",
        ),
        (
            {"freeze": ["layer4"]},
            "freeze: layer4 found, which fits no parameter; names of parameters or layers such as",
        ),
        ({"freeze": ["*"]}, "freeze: * found, which leaves no parameter of the network to train"),
        ({"lr_scale": {"body": 0.1}}, "lr_scale: body found, which fits no parameter"),
        ({"lr_scale": {"head": -1}}, "lr_scale: -1.0 found, a number of at least 0 expected"),
        (
            {"decay_norms_and_biases": False, "optimizer": {"class_path": "torch.optim.Rprop"}},
            "decay_norms_and_biases: false found, but Rprop has no weight_decay",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(options: dict, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(Net(width=7).state_dict(), "wide.pt")
    assert problem in refused(capsys, "fit", write(**options))
    assert not [*Path().rglob("*.ckpt")]


def groups(module: TeacherModule) -> list[tuple[int, float, float]]:
    """The number of parameters, rate and weight decay of each group."""
    optimizer, _ = module._build_optimizer()
    return [(len(group["params"]), group["lr"], group["weight_decay"]) for group in optimizer.param_groups]


def adamw(parameters: Any, **options: Any) -> AdamW:
    return AdamW(parameters, lr=0.1, weight_decay=0.5, **options)


def test_parts_have_their_own_rates_and_norms_and_biases_no_decay() -> None:
    assert groups(TeacherModule(Net(), adamw)) == [(6, 0.1, 0.5)]
    scaled = TeacherModule(Net(), adamw, lr_scale={"backbone.1": 0.0, "backbone": 0.5})
    assert groups(scaled) == [(2, 0.0, 0.5), (2, 0.05, 0.5), (2, 0.1, 0.5)]
    assert groups(TeacherModule(Net(), adamw, decay_norms_and_biases=False)) == [(2, 0.1, 0.5), (4, 0.1, 0.0)]
    both = TeacherModule(Net(), adamw, lr_scale={"backbone": 0.5}, decay_norms_and_biases=False)
    assert groups(both) == [(1, 0.05, 0.5), (3, 0.05, 0.0), (1, 0.1, 0.5), (1, 0.1, 0.0)]


@pytest.mark.parametrize("make", [SGD, Adam, AdamW])
@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: CosineDecay(optimizer, total_steps=10, warmup=0.2),
        lambda optimizer: CosineAnnealingLR(optimizer, 10),
        lambda optimizer: OneCycleLR(optimizer, 0.1, 10),
    ],
    ids=["CosineDecay", "CosineAnnealingLR", "OneCycleLR"],
)
def test_every_schedule_keeps_the_factor(make: Any, schedule: Any) -> None:
    module = TeacherModule(
        Net(), lambda each, **options: make(each, lr=0.1, **options), schedule, lr_scale={"head": 0.1}
    )
    optimizer, scheduler = module._build_optimizer()
    for _ in range(8):
        body, head = (group["lr"] for group in optimizer.param_groups)
        assert head == pytest.approx(body / 10)
        assert body > 0
        optimizer.step()
        scheduler.step()


def test_a_schedule_that_keeps_all_rates_itself_is_refused() -> None:
    def cyclic(optimizer: Any) -> CyclicLR:
        return CyclicLR(optimizer, 0.01, 0.1, cycle_momentum=False)

    with pytest.raises(UserError, match="lr_scale: CyclicLR found, which sets the rates of all groups"):
        TeacherModule(Net(), adamw, cyclic, lr_scale={"head": 0.1})._build_optimizer()


def test_students_that_are_trained_at_once_have_none_of_it() -> None:
    with pytest.raises(UserError, match=r"freeze: .* found, but students that are trained at once do not have it"):
        PopulationModule(lambda: MLP([64, 10]), MLP([64, 10]), None, [(1.0, 1.0, 0)], freeze=["0"])


def test_a_network_that_comes_in_evaluation_mode_is_trained_in_training_mode() -> None:
    net = Net().eval()
    TeacherModule(net)
    assert all(module.training for module in net.modules())
    net.backbone[2].eval()  # a part of it is the user's choice
    TeacherModule(net)
    assert [module.training for module in net.backbone] == [True, True, False, True]


def test_frozen_norms_are_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert main(["fit", write(freeze=["backbone"])]) == 0
    assert not [it for it in recwarn if "eval mode" in str(it.message)]
