"""Compiled networks: the same weights under the same names, whatever is done with them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.models import MLP

SMALL = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 8, 10]}}
LARGE = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 16, 10]}}
FAST = "aot_eager"
"""The backend that traces as torch's default does, and leaves out the minute in a C++ compiler."""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    torch.save(MLP([64, 16, 10]).state_dict(), "teacher.pt")


def config(name: str, **init_args: Any) -> str:
    logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "logs", "name": name, "version": "seed_0"},
    }
    options = {"net": SMALL, "teacher": LARGE, "teacher_ckpt": "teacher.pt", "cache_teacher": False, **init_args}
    whole = {
        "seed_everything": 0,
        "model": {"class_path": "kd_lightning.modules.DistillModule", "init_args": options},
        "data": {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": {"train_size": 100}},
        "trainer": {"max_epochs": 2, "logger": logger, "enable_model_summary": False},
    }
    Path(f"{name}.yaml").write_text(yaml.safe_dump(whole))
    return f"--config={name}.yaml"


def weights(run: str) -> dict[str, torch.Tensor]:
    return torch.load(f"logs/{run}/seed_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_a_compiled_student_of_a_compiled_teacher_is_trained_tested_and_resumed_like_any_other() -> None:
    compiled = config("compiled", compile=FAST)
    trained = lightning.main(["fit", compiled])
    assert trained.model.net._compiled_call_impl is not None
    assert trained.model.teacher.network._compiled_call_impl is not None
    lightning.main(["fit", config("plain")])
    assert weights("compiled").keys() == weights("plain").keys()
    for name, tensor in weights("plain").items():
        torch.testing.assert_close(weights("compiled")[name], tensor, rtol=1e-4, atol=1e-5)
    assert main(["test", compiled]) == 0
    assert main(["test", "--config=plain.yaml", "--ckpt_path=logs/compiled/seed_0"]) == 0
    assert main(["fit", "--config=plain.yaml", "--ckpt_path=logs/compiled/seed_0", "--trainer.max_epochs=3"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile": "nonsense"}, "compile: nonsense found, true, false or one of cudagraphs, inductor"),
        (
            {
                "compile": FAST,
                "feature_weight": 1.0,
                "features": [
                    {
                        "student_layer": "linear1",
                        "teacher_layer": "linear1",
                        "loss": {"class_path": "kd_lightning.losses.CosineHiddenLoss"},
                    }
                ],
            },
            "compile: false expected with features",
        ),
    ],
)
def test_what_cannot_be_compiled_is_one_line(
    options: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", config("refused", **options)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_torch_s_default_backend_compiles_too() -> None:
    assert main(["fit", config("compiled", compile=True)]) == 0


def test_the_precision_of_matrix_products_is_the_config_s() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        assert main(["fit", config("plain"), "--matmul_precision=medium"]) == 0
        assert torch.get_float32_matmul_precision() == "medium"
        assert main(["fit", config("plain")]) == 0
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)
