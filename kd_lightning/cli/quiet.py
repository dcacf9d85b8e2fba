"""Silence warnings and tracebacks that tell a user of this project nothing."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NEEDLESS_WARNINGS = (
    r".*does not have many workers.*",  # they load indices alone
    r".*LeafSpec.*",
    r".*is not supported by the model summary.*",
    r".*The dirpath has changed from.*",  # with a checkpoint of another folder
    r".*WeightAveraging callback, but loading a checkpoint outside the 'fit' stage.*",  # it has the averages
    r".*Total length of `list` across ranks is zero.*",  # without validation images
    r"LightningCLI's args parameter is intended.*",  # ours are from the command line or a recipe
    r"You're resuming from a checkpoint that ended before the epoch ended.*",  # our sampler skips the batches of before
    r".*could not find the monitored key.*",  # without validation, which `BestCheckpoint` handles
    r".*Checkpoint directory .* exists and is not empty.*",  # a stage run again replaces its checkpoint
    r".*The number of training batches .* is smaller than the logging interval.*",  # we log by the epoch
    r"Found \d+ module\(s\) in eval mode at the start of training.*",  # the teacher, and frozen batch norms
)


def silence_needless_warnings() -> None:
    """Silence warnings of Lightning and torch that do not apply here, and Lightning's advertisement of litlogger."""
    for message in NEEDLESS_WARNINGS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()


@contextmanager
def report_full_disk_once() -> Iterator[None]:
    """Print no traceback of TensorBoard's writer thread for a full disk: its next write raises the error again."""
    print_error = threading.excepthook

    def print_others(args: Any) -> None:
        if not (type(args.thread).__module__.startswith("tensorboard.") and issubclass(args.exc_type, OSError)):
            print_error(args)

    threading.excepthook = print_others
    try:
        yield
    finally:
        threading.excepthook = print_error
