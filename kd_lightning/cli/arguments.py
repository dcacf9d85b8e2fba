"""The argument parsers of all commands but the Lightning CLI's, without torch: help and completion use them."""

import argparse
import math
from pathlib import Path

from kd_lightning.cli.parser import Arguments, count, expanded, path
from kd_lightning.recipe import CONFIGS

DEFAULT_RECIPE = "digits"

STACK_SIZE = 32
"""Default of `sweep --at_once`: on two CPU threads, 32 students of the MNIST recipe take 0.8 of the time of 4 x 8."""

FORMATS = ("onnx", "torch")
"""Formats of `export`."""

PREDICT_BATCH_SIZE = 128

TRIES = 20
"""Settings that a search tries."""


def reproduce_arguments() -> Arguments:
    """Return the parser of `kd-lightning reproduce`, without the recipe, which is its first word."""
    parser = Arguments(
        prog="kd-lightning reproduce",
        usage="%(prog)s [RECIPE] [--seeds N] [--stages A,B] [--force] [--runs DIR]\n       [OPTION OF FIT ...]",
        description=f"Train a recipe's teacher, baseline and distilled students, test each, and compare. RECIPE is one "
        f"of `kd-lightning recipes`, or the path of a recipe's folder or file (default: {DEFAULT_RECIPE}).",
        epilog="Further options of `kd-lightning fit` apply to every stage that has them: --data.root PATH, "
        "--data OTHER.yaml, --trainer.max_epochs N, --model.temperature T, …",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="runs of each student, with seeds 0 to N-1 (default: the recipe's)"
    )
    parser.add_argument(
        "--stages", metavar="A,B", help="stages to run; their teachers are added (default: the main ones)"
    )
    parser.add_argument("--force", action="store_true", help="repeat finished runs")
    parser.add_argument(
        "--runs",
        type=path,
        default=Path("lightning_logs"),
        metavar="DIR",
        help="folder for runs (default: %(default)s)",
    )
    return parser


def recipes_arguments() -> Arguments:
    """Return the parser of `kd-lightning recipes`."""
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
    """Return the parser of `kd-lightning compare`."""
    parser = Arguments(
        prog="kd-lightning compare",
        usage="%(prog)s RUNS … [--format table|json|csv] [--columns NAME,…] [--output DIR]\n"
        "       [--runs DIR] [--verify]",
        description="Compare runs: published figures beside measured ones, the spread over seeds, and accuracy against "
        "size and latency. RUNS is a run folder, a folder of runs at any depth, a recipe's name or file, or a "
        "comparison.json.",
        epilog="Runs of one folder that differ only in the seed make one row.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "what", nargs="+", type=expanded, metavar="RUNS", help="lightning_logs/digits, …/distill/seed_0, digits, …"
    )
    parser.add_argument(
        "--format",
        choices=("table", "json", "csv"),
        default="table",
        help="of standard output; json and csv write a report only with --output (default: %(default)s)",
    )
    parser.add_argument(
        "--columns",
        metavar="NAME,…",
        help="of the table, after the stage: macro_f1, balanced_accuracy, top5_accuracy, nll, …; recall, precision and "
        "f1 are columns for each class; default stands for the usual ones",
    )
    parser.add_argument(
        "--output",
        type=path,
        metavar="DIR",
        help="folder for report and comparison.json (default: compare/ in --runs)",
    )
    parser.add_argument(
        "--runs",
        type=path,
        default=Path("lightning_logs"),
        metavar="DIR",
        help="folder of the recipes' runs (default: %(default)s)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="check files of comparison.json, or a folder of them: figures against a bit per test image, options "
        "against the command, commits against this repository",
    )
    return parser


def export_arguments() -> Arguments:
    """Return the parser of `kd-lightning export`."""
    parser = Arguments(
        prog="kd-lightning export",
        usage="%(prog)s CHECKPOINT_OR_RUN [--format F,…] [--int8] [--output DIR]\n       [--config FILE] [--threads N]",
        description="Export a trained network, with normalisation and softmax, to files that run without this project: "
        "uint8 images in, class probabilities out, any batch size. Each file is verified against PyTorch on the run's "
        "test images before it is kept.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint",
        type=path,
        metavar="CHECKPOINT_OR_RUN",
        help="checkpoint, or run folder: its best, else its last",
    )
    parser.add_argument(
        "--format", type=_formats, default=[*FORMATS], metavar="F,…", help="onnx, torch (default: both)"
    )
    parser.add_argument("--int8", action="store_true", help="add an 8-bit ONNX file, calibrated on training images")
    parser.add_argument(
        "--output", type=path, metavar="DIR", help="folder for files (default: export/ in the run folder)"
    )
    parser.add_argument(
        "--config", type=path, metavar="FILE", help="config of network and data, if the checkpoint has none"
    )
    parser.add_argument("--threads", type=count, metavar="N", help="CPU threads (default: torch decides)")
    return parser


def predict_arguments() -> Arguments:
    """Return the parser of `kd-lightning predict`."""
    parser = Arguments(
        prog="kd-lightning predict",
        usage="%(prog)s MODEL IMAGE_OR_FOLDER ... [--output FILE] [--batch_size N]\n"
        "       [--config FILE]\n"
        "       kd-lightning predict --config FILE [--OPTION VALUE ...]",
        description="Classify image files and write a CSV with file, class and probability. Files that cannot be read "
        "are named in an error with exit status 2; the others are written.",
        epilog="kd-lightning predict --config FILE [--ckpt_path RUN] [--OPTION VALUE ...], without a model, classifies "
        "the test images of a run; its options are those of kd-lightning test.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "model",
        type=path,
        metavar="MODEL",
        help="checkpoint, run folder, or exported .onnx or .pt2 (a program)",
    )
    parser.add_argument(
        "images", type=path, nargs="+", metavar="IMAGE_OR_FOLDER", help="folders are searched with their subfolders"
    )
    parser.add_argument(
        "--output", type=path, default=Path("predictions.csv"), metavar="FILE", help="CSV file (default: %(default)s)"
    )
    parser.add_argument(
        "--batch_size",
        type=count,
        default=PREDICT_BATCH_SIZE,
        metavar="N",
        help="images per batch (default: %(default)s)",
    )
    parser.add_argument("--config", type=path, metavar="FILE", help="config of the network, if the checkpoint has none")
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
    """Return the parser of `kd-lightning sweep`."""
    parser = Arguments(
        prog="kd-lightning sweep",
        usage="%(prog)s CONFIG --temperatures T,… --soft_weights W,… [--seeds N] [--at_once M]\n"
        "       [OPTION OF FIT ...]\n"
        "       %(prog)s CONFIG --space FILE [--tries N] [OPTION OF FIT ...]",
        description="Train a student for every temperature, soft weight and seed, many at once as one stacked network, "
        "and compare them on validation images; or try settings of any options that FILE lists, one after another, "
        "each chosen by the figures of those before. CONFIG is the `kd-lightning fit` config of one student.",
        epilog="Further options are those of `kd-lightning fit`: --data.val_size N, --trainer.max_epochs N, …",
        allow_abbrev=False,
    )
    parser.add_argument("config", type=path, metavar="CONFIG", help="config of a student")
    parser.add_argument("--temperatures", type=_numbers, metavar="T,…", help="each above 0")
    parser.add_argument("--soft_weights", type=_numbers, metavar="W,…", help="each at least 0")
    parser.add_argument("--space", type=path, metavar="FILE", help="YAML with the values of each option to search")
    parser.add_argument("--tries", type=count, metavar="N", help=f"settings of --space to try (default: {TRIES})")
    parser.add_argument("--seeds", type=count, metavar="N", help="seeds 0 to N-1 (default: 1)")
    parser.add_argument("--at_once", type=count, metavar="M", help=f"students in a stack (default: {STACK_SIZE})")
    parser.add_argument(
        "--runs",
        type=path,
        default=Path("lightning_logs"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
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
