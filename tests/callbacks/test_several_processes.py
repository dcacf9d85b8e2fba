"""A test on several processes leaves what a test on one leaves."""

import subprocess
import sys
from pathlib import Path

import pytest

from kd_lightning.__main__ import main
from kd_lightning.reports.results import TEST_PARTS, read_results
from tests.made import write_mnist

CONFIG = Path(__file__).parents[2] / "configs" / "mnist_hinton" / "distill_without_3.yaml"
RUN = Path("lightning_logs/mnist_hinton/distill_without_3/seed_0")


@pytest.mark.slow
def test_every_image_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    root = write_mnist(tmp_path / "data", test=201)
    common = [f"--config={CONFIG}", f"--data.root={root}", "--data.eval_batch_size=10", "--trainer.accelerator=cpu"]
    common += ["--trainer.precision=32-true", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    common += ["--data.val_size=21"]
    teacher = ["--config", str(CONFIG.with_name("teacher.yaml")), *common[1:]]
    assert main(["fit", *teacher]) == 0
    # Validation on two processes, in a process of its own: it starts the other by repeating its command line.
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "kd_lightning"]
    assert subprocess.run([*command, "fit", *common, *two], check=False).returncode == 0
    assert main(["test", *common]) == 0
    parts = [name for name in TEST_PARTS if name != "latency"]
    pictures = ("confusion.png", "errors.png", "mistakes.png", "reliability.png")
    one = {name: read_results(RUN).get(name) for name in parts}, [(RUN / name).read_bytes() for name in pictures]
    assert one[0]["test"]["images"] == sum(map(sum, one[0]["confusion"])) == sum(one[0]["class_images"]) == 201
    assert set(one[0]["bias_correction"]) == {"classes", "as_trained", "frequency", "test_optimal"}
    for devices in (2, 3):
        words = [*common, f"--trainer.devices={devices}", "--trainer.strategy=ddp"]
        assert subprocess.run([*command, "test", *words], check=False).returncode == 0
        other = {name: read_results(RUN).get(name) for name in parts}, [(RUN / name).read_bytes() for name in pictures]
        for name in parts:
            expected = one[0][name]
            assert other[0][name] == (pytest.approx(expected, abs=1e-5) if name == "test" else expected)
        assert other[1] == one[1]
