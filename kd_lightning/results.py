"""The schema of `results.json`: what one run measured, and what it takes to measure it again.

    {"fit":  {"seconds", "epochs", "steps", "seed"},
     "test": {"accuracy", "errors", "images", "right", "nll", "calibration_error", "loss",
              "agreement", "teacher_kl"},   # of a distilled student, where its teacher was there
     "latency": {"batch_1", "batch_128"},   # median milliseconds of a forward pass; without what was not measured
     "export": {"threads", "forms": {NAME: {"mebibytes", "difference", "agreement", "errors", "images", "latency"}}},
     "network": {"name", "parameters", "mebibytes"},
     "class_names": [NAME, …],   # in the order of their numbers
     "confusion": [[COUNT, …], …],   # of the test: a row a label, a column a prediction; not of over 1,000 classes
     "bias_correction": {RULE: {"errors", "class_errors", "bias"}},   # where classes were left out of training
     "config": {OPTION: VALUE},   # all of `fit`'s, of the run's own `config.yaml`
     "commit": WORD,   # of the git repository that the command was given in, with + where files differ from it
     "data": {"train": DIGEST, "test": DIGEST},   # of the images and how they are shown
     "versions": {PACKAGE: VERSION}, "machine": {"system", "processor", "cores"}, "device": NAME, "devices": NUMBER,
     "threads": NUMBER,   # that torch had on the CPU
     "label": WORD,   # of `fit --label`, or a random one, as in the run's checkpoints; `reproduce`: its fingerprint
     "settings": DIGEST, "fingerprint": DIGEST,   # of all that `reproduce` says the figures depend on; with the seed
     "command": [WORD, …]}

Each part is written when it is known; a new fit starts a new file.
"""

import json
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kd_lightning.errors import UserError
from kd_lightning.whole import write_text

RESULTS_FILE = "results.json"

_OF_A_RUN = ("label", "settings", "fingerprint", "fit", "test", "latency", "export", "bias_correction", "confusion")
_OF_ITS_SETTING = ("class_names", "data", "network", "versions", "machine", "device", "devices", "threads")
PARTS = frozenset((*_OF_A_RUN, *_OF_ITS_SETTING, "config", "commit", "command"))
"""All that a run's results can have."""

PACKAGES = ("kd-lightning", "torch", "torchvision", "lightning", "torchmetrics")


def read_results(run: Path) -> dict[str, Any]:
    """The results of a run folder; empty where there are none, or none that can be read."""
    try:
        results = json.loads((run / RESULTS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}


def update_results(run: Path, **parts: Any) -> None:
    """Set parts of a run's results, the others stay; the file is replaced whole or not at all."""
    text = json.dumps({**read_results(run), **parts}, indent=2)
    # A list of whole numbers takes one line, not one a number. No string is touched: it has no line break as such.
    text = re.sub(r"\[\n\s*(\d+(?:,\n\s*\d+)*)\n\s*\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    write_text(run / RESULTS_FILE, text + "\n")


def label_of(checkpoint: Any) -> str | None:
    """The label of the run that a checkpoint is of; nothing of one that was saved without, or elsewhere."""
    try:
        return checkpoint["callbacks"]["ResultsWriter"]["label"]
    except (LookupError, TypeError):
        return None


def check_run(path: Path, checkpoint: Any, option: str) -> None:
    """See that a checkpoint in a run folder is that run's.

    Args:
        path: where the checkpoint lies.
        checkpoint: its content.
        option: what the user set it with, for errors.

    Raises:
        UserError: it was put there from another run.
    """
    if path.parent.name != "checkpoints":
        return
    run = path.parent.parent
    found, expected = label_of(checkpoint), read_results(run).get("label")
    if found and expected and found != expected:
        raise UserError(
            f"{option}: {path} is a checkpoint of another run: label {found} found, {expected} expected, as in "
            f"{run / RESULTS_FILE}"
        )


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    return {package: version(package) for package in PACKAGES}


def machine() -> dict[str, Any]:
    """The computer that the figures were measured on; the device is the run's."""
    return {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count()}


def commit() -> str:
    """The git commit of the working folder, with `+` where tracked files differ from it; empty outside of git."""
    try:
        head, changes = (
            subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.strip() + ("+" if changes.strip() else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
