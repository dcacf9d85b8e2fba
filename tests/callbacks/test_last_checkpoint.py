"""When `last.ckpt` is written, and what is in it."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from kd_lightning.cli import lightning

LAST = Path("logs/run/checkpoints/last.ckpt")

BATCHES = 6
"""Of an epoch: 60 digits in batches of 10."""


class Seen(Callback):
    """Notes the step of `last.ckpt` when an epoch begins, and when training is over."""

    steps: ClassVar[list[int | None]] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.steps.append(step_of_last())

    def on_fit_end(self, *_: Any) -> None:
        self.steps.append(step_of_last())


def step_of_last() -> int | None:
    return torch.load(LAST, weights_only=True)["global_step"] if LAST.is_file() else None


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Seen.steps = []


def fit(*words: str, **options: Any) -> Any:
    """Train an MLP on 60 digits, with 20 others held out, in a run folder `logs/run`."""
    net = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 8, 10]}}
    logger = {"save_dir": "logs", "name": "", "version": "run"}
    whole = {
        "seed_everything": 3,
        "model": {"class_path": "kd_lightning.modules.TeacherModule", "init_args": {"net": net, **options}},
        "data": {
            "class_path": "kd_lightning.data.DigitsDataModule",
            "init_args": {"train_size": 60, "val_size": 20, "batch_size": 10},
        },
        "trainer": {
            "max_epochs": 4,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": logger},
        },
    }
    Path("config.yaml").write_text(yaml.safe_dump(whole))
    return lightning.main(["fit", "--config=config.yaml", *words])


STOP_AT_ONCE = [
    "--trainer.val_check_interval=2",
    "--trainer.callbacks=EarlyStopping",
    "--trainer.callbacks.monitor=val/accuracy",
    "--trainer.callbacks.stopping_threshold=-1",
    "--trainer.callbacks.mode=max",
]

EACH_EPOCH = [None, 6, 12, 18, 24]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--trainer.check_val_every_n_epoch=10"], EACH_EPOCH),
        (["--trainer.check_val_every_n_epoch=3"], EACH_EPOCH),
        (["--trainer.val_check_interval=0.4"], EACH_EPOCH),  # after batches 2, 4 and 6
        (["--trainer.val_check_interval=4"], EACH_EPOCH),
        (["--trainer.val_check_interval=7", "--trainer.check_val_every_n_epoch=null"], EACH_EPOCH),
        (["--trainer.limit_val_batches=0"], EACH_EPOCH),
        (["--data.val_size=0"], EACH_EPOCH),
        (["--model.steps_at_once=4"], EACH_EPOCH),
        (["--model.steps_at_once=4", "--trainer.check_val_every_n_epoch=3"], EACH_EPOCH),
        (["--trainer.max_steps=9"], [None, 6, 9]),
        (["--trainer.max_steps=9", "--trainer.check_val_every_n_epoch=5"], [None, 6, 9]),
        (["--trainer.accumulate_grad_batches=4"], [None, 2, 4, 6, 8]),
        (STOP_AT_ONCE, [None, 2]),
    ],
    ids=lambda value: " ".join(word.rpartition(".")[2] for word in value if isinstance(word, str)),
)
def test_last_is_of_each_epochs_end_and_of_the_end_of_training(words: list[str], expected: list[int | None]) -> None:
    fit(*words, "--trainer.callbacks+=tests.callbacks.test_last_checkpoint.Seen")
    assert Seen.steps == expected


@pytest.mark.parametrize(
    ("words", "steps"), [(["check_val_every_n_epoch=3"], {18}), (["val_check_interval=5"], {5, 11, 17, 23})]
)
def test_best_is_of_a_validation(words: list[str], steps: set[int]) -> None:
    fit(*(f"--trainer.{word}" for word in words))
    assert torch.load(LAST.with_name("best.ckpt"), weights_only=True)["global_step"] in steps


@pytest.mark.parametrize("words", [["--trainer.max_steps=9"], STOP_AT_ONCE], ids=["max_steps", "early stopping"])
def test_a_run_that_ended_within_an_epoch_is_extended_as_one_that_never_ended(words: list[str]) -> None:
    length = "--trainer.val_check_interval=2"
    whole = fit(length)
    fit(length, *words)
    resumed = fit(length, f"--ckpt_path={LAST}")
    assert resumed.trainer.global_step == whole.trainer.global_step
    assert resumed.trainer.callback_metrics == whole.trainer.callback_metrics
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
