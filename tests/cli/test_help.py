"""Help: a page for each command, on one screen and at once."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kd_lightning.__main__ import COMMANDS, USAGE, main
from kd_lightning.cli import lightning
from kd_lightning.cli.help import page_of

ROOT = Path(__file__).parents[2]
LINES, COLUMNS = 40, 100


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_a_page_fits_a_screen(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert main([command, "--help"] if command else ["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: kd-lightning {command or 'COMMAND'}")
    assert 3 < len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS


def test_help_and_completion_import_no_torch():
    calls = "".join(f"main([{command!r}, '--help']); " for command in COMMANDS)
    program = f"import sys; from kd_lightning.__main__ import main; {calls}main(['completion', 'bash']); "
    program += "sys.exit(', '.join({'torch', 'lightning', 'matplotlib', 'jsonargparse'} & {*sys.modules}) or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_usage_names_every_command():
    assert {*re.findall(r"^  (\w+)", USAGE, re.M)} == {*COMMANDS}


VALUES = {
    "--ckpt_path": "lightning_logs/run",
    "--seed_everything": "1",
    "--label": "word",
    "--disable_callbacks": "[Dashboard]",
    "--threads": "1",
    "--matmul_precision": "high",
    "--model.net": "kd_lightning.models.MLP",
    "--model.net.widths": "[64,10]",
    "--model.teacher_ckpt": "lightning_logs/run",
    "--model.temperature": "2",
    "--model.hard_weight": "0.1",
    "--model.soft_weight": "0.1",
    "--model.soft_loss": "kd_lightning.losses.soft_target_loss",
    "--model.optimizer": "torch.optim.AdamW",
    "--model.optimizer.lr": "0.1",
    "--data": "kd_lightning.data.MNISTDataModule",
    "--data.root": "data",
    "--data.batch_size": "8",
    "--data.eval_batch_size": "8",
    "--data.val_size": "8",
    "--trainer.max_epochs": "1",
    "--trainer.accelerator": "gpu",
    "--trainer.devices": "2",
    "--trainer.strategy": "ddp",
    "--trainer.precision": "bf16-mixed",
}


@pytest.mark.parametrize("command", ["fit", "test"])
def test_the_options_of_a_page_are_taken(command):
    shown = [*dict.fromkeys(re.findall(r"--[a-z][\w.]*\w", page_of(command)))]
    helping = {option for option in shown if option.endswith(("help", "help_all", "print_config"))}
    assert helping == {"--print_config", "--model.help", "--data.help", "--model.net.help", "--help_all"}
    words = [f"{option}={VALUES[option]}" for option in shown if option not in {*helping, "--config"}]
    config = lightning.parse([command, f"--config={ROOT / 'configs/digits/distill.yaml'}", *words])
    assert config["trainer"]["precision"] == "bf16-mixed"


def test_all_options_are_to_be_had(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help_all"])
    assert stop.value.code == 0
    assert "--trainer.gradient_clip_val" in capsys.readouterr().out
    for words in (["--model.help=kd_lightning.DistillModule"], ["--data.help=kd_lightning.ImageFolderDataModule"]):
        with pytest.raises(SystemExit) as stop:
            main(["fit", *words])
        assert stop.value.code == 0
    assert "--model.temperature TEMPERATURE" in (said := capsys.readouterr().out)
    assert "--data.cache_limit CACHE_LIMIT" in said
