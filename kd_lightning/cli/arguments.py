"""What our own commands take: kept apart from what they do, so that their help waits for no import of torch."""

import argparse
import math
from pathlib import Path

from kd_lightning.cli.parser import Arguments, count, expanded, path
from kd_lightning.recipe import CONFIGS

DEFAULT_RECIPE = "digits"

AT_ONCE = 32
"""Students in a stack by default: 32 of recipe A take 0.8 of the time of four stacks of 8 on two CPU threads."""


FORMATS = ("onnx", "torch")
"""Of exported files."""

PREDICTED_AT_ONCE = 128
"""Images, by default."""


def reproduce_arguments() -> Arguments:
    """The options of `kd-lightning reproduce`, but for the recipe, which is its first word."""
    parser = Arguments(
        prog="kd-lightning reproduce",
        usage="%(prog)s [RECIPE] [--seeds N] [--stages A,B] [--force] [--runs DIR]\n       [OPTION OF FIT ...]",
        description=f"Train a recipe's teacher, baseline and distilled students, test each, and compare. RECIPE is one "
        f"of `kd-lightning recipes`, or the path of a recipe's folder or file (default: {DEFAULT_RECIPE}).",
        epilog="Any further option is one of `kd-lightning fit`, for every stage that has it: --data.root PATH, "
        "--data OTHER.yaml, --trainer.max_epochs N, --model.temperature T, …",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="runs of each student, seeds 0 to N-1 (default: recipe's)"
    )
    parser.add_argument(
        "--stages", metavar="A,B", help="stages to run, with the teachers they need (default: main ones)"
    )
    parser.add_argument("--force", action="store_true", help="run anew what is finished")
    parser.add_argument(
        "--runs",
        type=path,
        default=Path("lightning_logs"),
        metavar="DIR",
        help="folder for runs (default: %(default)s)",
    )
    return parser


def recipes_arguments() -> Arguments:
    """The options of `kd-lightning recipes`."""
    parser = Arguments(
        prog="kd-lightning recipes",
        usage="%(prog)s [copy RECIPE]",
        description="List the recipes that `kd-lightning reproduce` runs: name, title, number of stages and data.",
        epilog=f"`copy RECIPE` copies a recipe of the package to {CONFIGS}/RECIPE, to change it; reproduce and fit "
        "then take that copy. Nothing is overwritten.",
        allow_abbrev=False,
    )
    parser.add_argument("words", nargs="*", metavar="copy RECIPE", help="copy a recipe")
    return parser


def compare_arguments() -> Arguments:
    """The options of `kd-lightning compare`."""
    parser = Arguments(
        prog="kd-lightning compare",
        usage="%(prog)s RUNS … [--format table|json|csv] [--output DIR] [--runs DIR]",
        description="Put what was measured side by side: published figures beside ours, the spread over seeds, and "
        "what a network's accuracy costs. RUNS is a run folder, a folder of runs at any depth, a recipe's name or "
        "file, or a comparison.json.",
        epilog="Runs of one folder that differ in nothing but the seed make one row.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "what", nargs="+", type=expanded, metavar="RUNS", help="lightning_logs/digits, …/distill/seed_0, digits, …"
    )
    parser.add_argument(
        "--format",
        choices=("table", "json", "csv"),
        default="table",
        help="on standard output; json and csv write no report unless --output is given (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=path, metavar="DIR", help="for report.html and comparison.json (default: compare/ in --runs)"
    )
    parser.add_argument(
        "--runs",
        type=path,
        default=Path("lightning_logs"),
        metavar="DIR",
        help="where recipes' are (default: %(default)s)",
    )
    return parser


def export_arguments() -> Arguments:
    """The options of `kd-lightning export`."""
    parser = Arguments(
        prog="kd-lightning export",
        usage="%(prog)s CHECKPOINT_OR_RUN [--format F,…] [--int8] [--output DIR]\n       [--config FILE] [--threads N]",
        description="Write a trained network, with normalisation and softmax, to files that run without this project: "
        "uint8 images in, class probabilities out, any number at a time. Each is compared with PyTorch on the run's "
        "test images before it takes its place.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint", type=path, metavar="CHECKPOINT_OR_RUN", help="of a run folder, its best checkpoint, else its last"
    )
    parser.add_argument(
        "--format", type=_formats, default=[*FORMATS], metavar="F,…", help="of onnx, torch (default: both)"
    )
    parser.add_argument(
        "--int8", action="store_true", help="an ONNX file of 8 bits too; ranges are measured on training images"
    )
    parser.add_argument("--output", type=path, metavar="DIR", help="(default: export/ in the run folder)")
    parser.add_argument(
        "--config", type=path, metavar="FILE", help="YAML that makes network and data, where the checkpoint does not"
    )
    parser.add_argument("--threads", type=count, metavar="N", help="of torch and onnxruntime (default: torch's choice)")
    return parser


def predict_arguments() -> Arguments:
    """The options of `kd-lightning predict`."""
    parser = Arguments(
        prog="kd-lightning predict",
        usage="%(prog)s MODEL IMAGE_OR_FOLDER ... [--output FILE] [--batch_size N]\n"
        "       [--config FILE]\n"
        "       kd-lightning predict --config FILE [--OPTION VALUE ...]",
        description="Name the class of image files: a CSV with file, class and probability. Where some cannot be read, "
        "they are named, the others are written, and the exit status is 2.",
        epilog="kd-lightning predict --config FILE [--ckpt_path RUN] [--OPTION VALUE ...], without a model, says the "
        "same of a run's own test images; its options are those of kd-lightning test.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "model", type=path, metavar="MODEL", help="checkpoint, run folder, or an exported .onnx or .pt2 (a program)"
    )
    parser.add_argument(
        "images", type=path, nargs="+", metavar="IMAGE_OR_FOLDER", help="folders are searched, and those in them"
    )
    parser.add_argument(
        "--output", type=path, default=Path("predictions.csv"), metavar="FILE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--batch_size",
        type=count,
        default=PREDICTED_AT_ONCE,
        metavar="N",
        help="images at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--config", type=path, metavar="FILE", help="YAML that makes the network, where the checkpoint does not say it"
    )
    return parser


def predicts_images(words: list[str]) -> bool:
    """Return whether `predict` is given a model and image files; else it is the Lightning CLI's, for test images.

    The Lightning CLI takes no positional words, and each of its options but `--config` is unknown here.

    Args:
        words: the words after `predict`.
    """
    if words and ("--" in words or not words[0].startswith("-")):
        return True
    parser = Arguments(allow_abbrev=False, add_help=False)
    parser.add_argument("images", nargs="*")
    for option in ("--output", "--batch_size", "--config"):
        parser.add_argument(option)
    options, unknown = parser.parse_known_intermixed_args(words)
    return not unknown and bool(options.images or options.output or options.batch_size)


def sweep_arguments() -> Arguments:
    """The options of `kd-lightning sweep`."""
    parser = Arguments(
        prog="kd-lightning sweep",
        usage="%(prog)s CONFIG --temperatures T,… --soft_weights W,… [--seeds N] [--at_once M]\n"
        "       [OPTION OF FIT ...]",
        description="Train a student for every temperature, soft weight and seed, many of them at once as one stacked "
        "network, and compare them on validation images. CONFIG is that of `kd-lightning fit` for one of them.",
        epilog="Any further option is one of `kd-lightning fit`: --data.val_size N, --trainer.max_epochs N, …",
        allow_abbrev=False,
    )
    parser.add_argument("config", type=path, metavar="CONFIG", help="YAML of a distilled student")
    parser.add_argument("--temperatures", type=_numbers, required=True, metavar="T,…", help="each above 0")
    parser.add_argument("--soft_weights", type=_numbers, required=True, metavar="W,…", help="each at least 0")
    parser.add_argument("--seeds", type=count, default=1, metavar="N", help="seeds 0 to N-1 (default: %(default)s)")
    parser.add_argument(
        "--at_once", type=count, default=AT_ONCE, metavar="M", help="students in a stack (default: %(default)s)"
    )
    parser.add_argument(
        "--runs",
        type=path,
        default=Path("lightning_logs"),
        metavar="DIR",
        help="folder for what is found (default: %(default)s)",
    )
    return parser


def _formats(word: str) -> list[str]:
    formats = word.split(",")
    if not set(formats) <= set(FORMATS) or len(set(formats)) < len(formats):
        raise argparse.ArgumentTypeError(f"{word} found, one or both of {','.join(FORMATS)} expected")
    return formats


def _numbers(word: str) -> list[float]:
    try:
        numbers = [float(number) for number in word.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{word} found, numbers expected, as in 1,2,4")
    if len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"{word} found, each number once expected")
    return numbers


PARSERS = {
    "reproduce": reproduce_arguments,
    "recipes": recipes_arguments,
    "compare": compare_arguments,
    "sweep": sweep_arguments,
    "export": export_arguments,
    "predict": predict_arguments,
}
"""By command, for its page of help and its completion."""
