"""The schema of `results.json`: what one run measured, and what it takes to measure it again.

    {"fit":  {"seconds", "epochs", "steps", "seed",
              "weights": DIGEST, "teacher": DIGEST,   # of the network's last weights, and of its teacher's
              "earlier": [{"config": DIGEST, "steps"}, …]},   # trainings with other options that this one continued
     "test": {"accuracy", "errors", "images", "right", "nll", "calibration_error", "loss",
              "agreement", "teacher_kl"},   # of a distilled student, where its teacher was there
     "measured_on": {"images", "of",   # images measured, and how many the test set has
                     "data": DIGEST, "mean", "std",   # of test images, labels, class names and normalisation
                     "checkpoint": NAME,   # "best" or "last", of the run; else the path of another file
                     "weights": DIGEST, "precision", "code"},   # see `CODE`
     "class_images": [COUNT, …],   # images of the test, by label
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
     "reproduced": {…},   # `measured_on` of the test that `reproduce` made, and the "parts" that it wrote
     "command": [WORD, …]}

Each part is written when it is known; a new fit starts a new file. A test replaces all parts of an earlier test.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kd_lightning.errors import UserError
from kd_lightning.utils.atomic_write import write_text

RESULTS_FILE = "results.json"

TEST_PARTS = ("test", "measured_on", "class_images", "class_names", "confusion", "bias_correction", "latency")
"""What a test writes. They belong together: a new test replaces or removes all of them."""

_OF_A_RUN = ("label", "settings", "fingerprint", "reproduced", "fit", "export", *TEST_PARTS)
_OF_ITS_SETTING = ("data", "network", "versions", "machine", "device", "devices", "threads")
PARTS = frozenset((*_OF_A_RUN, *_OF_ITS_SETTING, "config", "commit", "command"))
"""All that a run's results can have."""

CODE = 1
"""Version of the code that makes numbers. Raise it with a change after which the same options give other figures:
`reproduce` then trains and tests finished runs again."""

_NO_SETTING = {
    "": ("config", "seed_everything", "label", "stage", "ckpt_path", "overwrite", "pictures", "disable_callbacks"),
    "trainer": ("logger", "default_root_dir"),
    "data": ("seed",),
}
"""Options that no figure depends on, or that say which run it is."""

PACKAGES = ("kd-lightning", "torch", "torchvision", "lightning", "torchmetrics")


def read_results(run: Path) -> dict[str, Any]:
    """The results of a run folder; empty where there are none, or none that can be read."""
    try:
        results = json.loads((run / RESULTS_FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return results if isinstance(results, dict) else {}


def update_results(run: Path, **parts: Any) -> None:
    """Set parts of a run's results, remove those that are None; the file is replaced whole or not at all."""
    together = {**read_results(run), **parts}
    text = json.dumps({name: part for name, part in together.items() if part is not None}, indent=2)
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


def config_digest(config: dict[str, Any]) -> str:
    """A digest of a config of `fit`, without the seed, the run's name and place, and what no figure depends on."""
    kept = {name: value for name, value in config.items() if name not in _NO_SETTING[""]}
    for part, options in (("trainer", kept.get("trainer")), ("data", (kept.get("data") or {}).get("init_args"))):
        plain = {name: value for name, value in (options or {}).items() if name not in _NO_SETTING[part]}
        kept[part] = plain if part == "trainer" else {**(kept.get("data") or {}), "init_args": plain}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def is_recipes(run: Path) -> bool:
    """Whether a run folder holds a run of `reproduce`, finished or not."""
    return is_fingerprint(read_results(run).get("label"))


def is_fingerprint(label: Any) -> bool:
    """Whether a run's label is one that `reproduce` gives: a digest and the seed."""
    return isinstance(label, str) and re.fullmatch(r"[0-9a-f]{64}-\d+", label) is not None


FEW = 10
"""Images of a class below which its errors say next to nothing: one of them is a tenth or more."""

MOST_NAMED = 10
"""Class names in one line."""


def with_few_images(class_images: Sequence[int], class_names: Sequence[str]) -> str:
    """Name the classes of which a test has no image, or too few; empty where there are none."""
    named = dict(enumerate(map(str, class_names)))
    groups = (
        ("no image of", [place for place, count in enumerate(class_images) if count == 0]),
        (f"fewer than {FEW} images of", [place for place, count in enumerate(class_images) if 0 < count < FEW]),
    )
    return "; ".join(f"{words} {_listed([named.get(p, str(p)) for p in places])}" for words, places in groups if places)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def code_version() -> str:
    """The version of the code that makes numbers: this package's, and `CODE`."""
    return f"{version('kd-lightning')}-{CODE}"


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
