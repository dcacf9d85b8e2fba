"""Read and write `results.json`, the results of one run.

    {"fit":  {"seconds", "epochs", "steps", "seed",
              "peak_mebibytes",   # of memory: of torch on a GPU, of the process on a CPU; null if unknown
              "weights": DIGEST, "teacher": DIGEST,   # of the final weights of network and teacher
              "earlier": [{"config": DIGEST, "steps"}, …]},   # trainings with other options that this one resumed
     "test": {"accuracy", "errors", "images", "right", "nll", "calibration_error", "loss",
              "macro_f1", "balanced_accuracy",   # means over classes
              "top5_accuracy",   # from 20 classes on
              "agreement", "teacher_kl"},   # of a distilled student, if its teacher is available
     "val": {"accuracy", "nll", …},   # of a try of `reproduce`: its last checkpoint on the validation images;
                                      # {"diverged": MESSAGE} if there is none
     "measured_on": {"images", "of",   # images measured, and size of the test set
                     "data": DIGEST, "mean", "std",   # of test images, labels, class names and normalisation
                     "part": "val",   # if the validation images were tested, as there are no others
                     "checkpoint": NAME,   # "best" or "last" of the run, or the path of another file
                     "weights": DIGEST, "precision", "code"},   # see `CODE`
     "right_images": BITS,   # of a whole test set: a bit per image, see `reports.right_images`
     "class_images": [COUNT, …],   # test images of each class
     "class_figures": {"recall", "precision", "f1"},   # each [FIGURE, …] by class; recall is the accuracy on its images
     "latency": {"batch_1", "batch_128"},   # median milliseconds of a forward pass
     "export": {"threads", "forms": {NAME: {"mebibytes", "difference", "agreement", "errors", "images", "latency"}}},
     "network": {"name", "parameters", "mebibytes"},
     "class_names": [NAME, …],   # in order
     "confusion": [[COUNT, …], …],   # a row for each label, a column for each prediction; at most 1,000 classes
     "bias_correction": {RULE: {"errors", "class_errors", "bias"}},   # if classes were left out of training
     "config": {OPTION: VALUE},   # all options of `fit`, as in the run's `config.yaml`
     "commit": WORD,   # of the git repository of the working folder, with + if files differ from it
     "data": {"train": DIGEST, "test": DIGEST},   # of images and preprocessing
     "versions": {PACKAGE: VERSION}, "machine": {"system", "processor", "cores"}, "device": NAME, "devices": NUMBER,
     "threads": NUMBER,   # CPU threads of torch
     "loggers": {CLASS: ID},   # of the runs of Weights & Biases and MLflow, which a test continues
     "label": WORD,   # of `fit --label`, or random, as in the run's checkpoints; `reproduce`: its fingerprint
     "settings": DIGEST, "fingerprint": DIGEST,   # of all that the figures of `reproduce` depend on; with the seed
     "recipe": {"options": DIGEST,   # of the options that the recipe and the command give, without defaults
                "setting": {OPTION: VALUE}},   # that was chosen among tries
     "reproduced": {…},   # `measured_on` of the test by `reproduce`, and the "parts" that it wrote
     "command": [WORD, …]}

Each part is written when it is known. A new fit starts a new file; a test replaces all parts of an earlier test.
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

TRIES = "tries"
"""Folder of a stage's tries, which are trained and validated, and never tested."""

_BY_CLASS = ("class_images", "class_figures", "class_names", "confusion")
TEST_PARTS = ("test", "measured_on", "right_images", *_BY_CLASS, "bias_correction", "latency")
"""Parts that a test writes; a new test replaces or removes all of them."""

_OF_A_RUN = ("label", "loggers", "settings", "fingerprint", "recipe", "reproduced", "fit", "val", "export", *TEST_PARTS)
_OF_ITS_SETTING = ("data", "network", "versions", "machine", "device", "devices", "threads")
PARTS = frozenset((*_OF_A_RUN, *_OF_ITS_SETTING, "config", "commit", "command"))
"""All parts of `results.json`."""

CODE = 1
"""Version of the code that determines figures. Raise it with a change after which the same options give other figures:
`reproduce` then trains and tests finished runs again."""

_NO_SETTING = {
    "": ("config", "seed_everything", "label", "stage", "ckpt_path", "overwrite", "pictures", "disable_callbacks"),
    "trainer": ("logger", "default_root_dir"),
    "data": ("seed",),
}
"""Options that figures do not depend on, or that identify the run."""

PACKAGES = ("kd-lightning", "torch", "torchvision", "lightning", "torchmetrics")


def read_results(run: Path) -> dict[str, Any]:
    """Return the results of a run folder; empty if there are none, or they cannot be read."""
    try:
        results = json.loads((run / RESULTS_FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return results if isinstance(results, dict) else {}


def update_results(run: Path, **parts: Any) -> None:
    """Set parts of a run's results, and remove those that are None, in one atomic write."""
    together = {**read_results(run), **parts}
    text = json.dumps({name: part for name, part in together.items() if part is not None}, indent=2)
    # Put lists of numbers on one line. Strings in JSON contain no line breaks, so they do not change.
    text = re.sub(
        r"\[\n\s*([\d.eE+-]+(?:,\n\s*[\d.eE+-]+)*)\n\s*\]", lambda found: f"[{' '.join(found[1].split())}]", text
    )
    write_text(run / RESULTS_FILE, text + "\n")


def label_of(checkpoint: Any) -> str | None:
    """Return the label of a checkpoint's run; None if it has none."""
    try:
        return checkpoint["callbacks"]["ResultsWriter"]["label"]
    except (LookupError, TypeError):
        return None


def check_run(path: Path, checkpoint: Any, option: str) -> None:
    """Check that a checkpoint belongs to the run in whose folder it is.

    Args:
        path: the checkpoint.
        checkpoint: its content.
        option: the option that named it, for errors.

    Raises:
        UserError: it belongs to another run.
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
    """Return a digest of a config of `fit`, without seed, name and folder of the run and other irrelevant options."""
    kept = {name: value for name, value in config.items() if name not in _NO_SETTING[""]}
    for part, options in (("trainer", kept.get("trainer")), ("data", (kept.get("data") or {}).get("init_args"))):
        plain = {name: value for name, value in (options or {}).items() if name not in _NO_SETTING[part]}
        kept[part] = plain if part == "trainer" else {**(kept.get("data") or {}), "init_args": plain}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def is_recipes(run: Path) -> bool:
    """Return whether a run folder contains a run of `reproduce`, finished or not."""
    return is_fingerprint(read_results(run).get("label"))


def is_fingerprint(label: Any) -> bool:
    """Return whether a run's label is a fingerprint of `reproduce`: a digest and the seed."""
    return isinstance(label, str) and re.fullmatch(r"[0-9a-f]{64}-\d+", label) is not None


MIN_CLASS_IMAGES = 10
"""Test images of a class below which its errors are not meaningful."""

MAX_NAMED = 10
"""Class names in one line."""


def with_few_images(class_images: Sequence[int], class_names: Sequence[str]) -> str:
    """Return a text that names the classes without test images, or with too few; empty if there are none."""
    named = dict(enumerate(map(str, class_names)))
    groups = (
        ("no image of", [place for place, count in enumerate(class_images) if count == 0]),
        (
            f"fewer than {MIN_CLASS_IMAGES} images of",
            [place for place, count in enumerate(class_images) if 0 < count < MIN_CLASS_IMAGES],
        ),
    )
    return "; ".join(f"{words} {_listed([named.get(p, str(p)) for p in places])}" for words, places in groups if places)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def code_version() -> str:
    """Return the version of the package and of the code that determines figures."""
    return f"{version('kd-lightning')}-{CODE}"


def versions() -> dict[str, str]:
    """Return the versions of the packages that figures depend on."""
    return {package: version(package) for package in PACKAGES}


def machine() -> dict[str, Any]:
    """Return system, processor and number of cores of this computer."""
    return {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count()}


def commit() -> str:
    """Return the git commit of the working folder, with `+` if tracked files differ from it; empty outside of git."""
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
