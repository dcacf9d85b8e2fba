"""A resumed training keeps its optimizer; its schedule and its length are those of the command line."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.data import DigitsDataModule
from kd_lightning.errors import UserError
from kd_lightning.models import MLP
from kd_lightning.modules import TeacherModule

RUN = "logs/run"
BATCHES = 3
"""Of an epoch: 60 digits in batches of 20."""


class Rates(Callback):
    """Notes the learning rate, and the momentum, of each step."""

    seen: ClassVar[list[tuple[float, float]]] = []

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        group = trainer.optimizers[0].param_groups[0]
        self.seen.append((group["lr"], group["momentum"]))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Rates.seen = []


def words(epochs: int, schedule: dict[str, Any] | None = None, **options: Any) -> list[str]:
    """The words of a `fit` of so many epochs; a schedule is given as its class with its options."""
    net = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 8, 10]}}
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
    model = {"net": net, "optimizer": sgd, **options}
    if schedule:
        (name, init_args) = next(iter(schedule.items()))
        model["lr_scheduler"] = {"class_path": name, "init_args": init_args}
    logger = {"save_dir": "logs", "name": "", "version": "run"}
    whole = {
        "seed_everything": 3,
        "model": {"class_path": "kd_lightning.modules.TeacherModule", "init_args": model},
        "data": {
            "class_path": "kd_lightning.data.DigitsDataModule",
            "init_args": {"train_size": 60, "val_size": 20, "batch_size": 20},
        },
        "trainer": {
            "max_epochs": epochs,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": logger},
        },
    }
    Path("config.yaml").write_text(yaml.safe_dump(whole))
    return ["fit", "--config=config.yaml"]


def rates_of(*command: Any) -> list[tuple[float, float]]:
    """The rates of the steps that a training took."""
    Rates.seen = []
    assert main([*command, "--trainer.callbacks+=tests.modules.test_resuming.Rates"]) == 0
    return Rates.seen


RESUME = f"--ckpt_path={RUN}"
COSINE = "kd_lightning.schedules.CosineDecay"
ONE_CYCLE = "torch.optim.lr_scheduler.OneCycleLR"
TORCHS = "torch.optim.lr_scheduler.CosineAnnealingLR"
BY_STEPS = "torch.optim.lr_scheduler.StepLR"
PLATEAU = "lightning.pytorch.cli.ReduceLROnPlateau"


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({COSINE: {}}, {COSINE: {}}),
        ({COSINE: {"warmup": 0.5}}, {COSINE: {"warmup": 0.5}}),
        ({ONE_CYCLE: {"max_lr": 0.1, "total_steps": 6}}, {ONE_CYCLE: {"max_lr": 0.1, "total_steps": 12}}),
        ({TORCHS: {"T_max": 2}}, {TORCHS: {"T_max": 4}}),
        ({BY_STEPS: {"step_size": 1}}, {BY_STEPS: {"step_size": 3}}),
        ({BY_STEPS: {"step_size": 1}}, {BY_STEPS: {"step_size": 1, "gamma": 0.5}}),
        ({BY_STEPS: {"step_size": 1}}, {COSINE: {}}),
        ({COSINE: {}}, {BY_STEPS: {"step_size": 1}}),
        ({COSINE: {}}, None),
        (None, {COSINE: {}}),
        ({COSINE: {}}, {PLATEAU: {"monitor": "val/nll"}}),
    ],
)
def test_a_longer_run_has_the_rates_of_the_longer_run(short: Any, long: Any) -> None:
    expected = rates_of(*words(4, long))
    assert len(rates_of(*words(2, short))) == 2 * BATCHES
    found = rates_of(*words(4, long), RESUME)
    assert found == expected[2 * BATCHES :]
    assert min(rate for rate, _ in found) > 0


@pytest.mark.parametrize("at_once", [(1, 2), (2, 1), (2, 2)])
def test_steps_at_once_go_on_as_single_ones_do(at_once: tuple[int, int]) -> None:
    first, then = at_once
    short, long = words(2, {COSINE: {}}, steps_at_once=first), {COSINE: {}}
    assert lightning.main(short).trainer.global_step == 2 * BATCHES
    Path(RUN).rename("kept")
    kept = "--ckpt_path=kept/checkpoints/last.ckpt"
    expected = lightning.main([*words(4, long), kept])
    found = lightning.main([*words(4, long, steps_at_once=then), kept])
    assert found.trainer.global_step == expected.trainer.global_step == 4 * BATCHES
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.optimizer.lr=0.01", "optimizer.lr: 0.01 found, 0.1 expected, as in the checkpoint: a resumed"),
        ("--model.optimizer.momentum=0.5", "optimizer.momentum: 0.5 found, 0.9 expected"),
        ("--model.optimizer.weight_decay=0.1", "optimizer.weight_decay: 0.1 found, 0.0 expected"),
        ("--model.optimizer=Adam", "optimizer: Adam found, SGD expected"),
        ("--model.net.widths=[64,9,10]", "ckpt_path: the weights in logs/run/checkpoints/last.ckpt do not fit MLP"),
        ("--data.batch_size=30", "batch_size: 30 found, 20 expected, as in the checkpoint"),
        ("--seed_everything=4", "seed_everything: 4 found, 3 expected, as in the checkpoint"),
    ],
)
def test_what_cannot_change_is_one_line_and_leaves_the_run_as_it_was(
    option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(1)) == 0
    before = {file: file.read_bytes() for file in Path(RUN).rglob("*") if file.is_file()}
    assert main([*words(2), option, RESUME]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert {file: file.read_bytes() for file in Path(RUN).rglob("*") if file.is_file()} == before


def test_a_plateau_keeps_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(1, {PLATEAU: {"monitor": "val/nll", "patience": 3}})) == 0
    assert main([*words(2, {PLATEAU: {"monitor": "val/nll", "patience": 2}}), RESUME]) == 2
    assert "lr_scheduler.patience: 2 found, 3 expected" in capsys.readouterr().err.splitlines()[-1]


STOP_BETWEEN_TWO_STEPS = [
    "--trainer.accumulate_grad_batches=3",
    "--trainer.val_check_interval=2",
    "--trainer.callbacks=EarlyStopping",
    "--trainer.callbacks.monitor=val/nll",
    "--trainer.callbacks.stopping_threshold=1000",
]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.train_size=40", "train_size: 40 found, 60 expected"),
        ("--data.seed=1", "seed: 1 found, 3 expected"),
        ("--model.steps_at_once=2", "steps_at_once: 2 found, 1 expected"),
        ("--trainer.accumulate_grad_batches=4", "accumulate_grad_batches: 4 found, 3 expected"),
    ],
)
def test_a_place_within_an_epoch_is_of_its_order_alone(
    option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    within = STOP_BETWEEN_TWO_STEPS if "accumulate" in option else ["--trainer.max_steps=1"]
    assert main([*words(1), *within]) == 0
    assert main([*words(2), option, RESUME]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("limit", [1.0, 2])
def test_a_training_that_ended_with_an_epoch_goes_on_by_steps(at_once: int, limit: float) -> None:
    """Two of the next epoch's three batches, whatever number of batches the epochs before had."""
    before = [*words(1, steps_at_once=at_once), f"--trainer.limit_train_batches={limit}"]
    done = 3 if limit == 1.0 else 2
    assert lightning.main(before).trainer.global_step == done
    resumed = lightning.main([*words(5, steps_at_once=at_once), f"--trainer.max_steps={done + 2}", RESUME])
    assert (resumed.trainer.global_step, resumed.trainer.fit_loop.epoch_progress.total.ready) == (done + 2, 2)
    if limit != 1.0:
        return
    state = {name: tensor.clone() for name, tensor in resumed.model.state_dict().items()}
    whole = lightning.main([*words(5), "--trainer.max_steps=5", "--overwrite=true"]).model.state_dict()
    assert all(torch.equal(state[name], whole[name]) for name in whole)


def test_a_run_without_a_seed_goes_on_with_the_one_that_was_drawn() -> None:
    unseeded = [*words(1), "--seed_everything=true"]
    drawn = lightning.main(unseeded).config["fit"]["seed_everything"]
    resumed = lightning.main([*words(2), "--seed_everything=true", RESUME])
    assert resumed.config["fit"]["seed_everything"] == drawn
    assert resumed.datamodule._seed == drawn


def test_the_patience_of_early_stopping_is_the_command_lines() -> None:
    stop = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/nll"]
    lightning.main([*words(1), *stop, "--trainer.callbacks.patience=2"])
    resumed = lightning.main([*words(2), *stop, "--trainer.callbacks.patience=7", RESUME])
    assert resumed.trainer.early_stopping_callback.patience == 7


@pytest.mark.parametrize(
    ("epochs", "schedule", "option", "message"),
    [
        (2, {ONE_CYCLE: {"max_lr": 0.1, "total_steps": 4}}, [], "lr_scheduler: OneCycleLR is shorter than the run"),
        (-1, {COSINE: {}}, ["--trainer.max_time=00:00:00:01"], "lr_scheduler: CosineDecay needs the run's length"),
    ],
)
def test_a_schedule_and_a_run_that_do_not_fit_are_one_line(
    epochs: int, schedule: Any, option: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(epochs, schedule), *option]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_from_python_too_another_optimizer_is_refused() -> None:
    def fit(lr: float, **more: Any) -> None:
        module = TeacherModule(MLP([64, 8, 10]), optimizer=lambda weights: torch.optim.SGD(weights, lr=lr))
        trainer = Trainer(max_epochs=more.pop("epochs"), enable_model_summary=False, logger=False, barebones=False)
        trainer.fit(module, DigitsDataModule(train_size=60, batch_size=20), **more)
        trainer.save_checkpoint("python.ckpt")

    fit(0.1, epochs=1)
    with pytest.raises(UserError, match=r"optimizer\.lr: 0\.2 found, 0\.1 expected"):
        fit(0.2, epochs=2, ckpt_path="python.ckpt")
    fit(0.1, epochs=2, ckpt_path="python.ckpt")
