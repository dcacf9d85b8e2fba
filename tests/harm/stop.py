"""What stops a training at a step."""

import os
import signal
from typing import Any

from lightning.pytorch import Callback


class Stop(Callback):
    """Sends this very process a signal behind a training batch, or in a validation.

    Args:
        signal_name: such as SIGKILL.
        batch: how many training batches of the run are over then; None for within the first validation.
    """

    def __init__(self, signal_name: str, batch: int | None) -> None:
        self.number = signal.Signals[signal_name]
        self.batch = batch
        self.seen = 0

    def on_train_batch_start(self, *_: Any) -> None:
        """Count, and stop inside of a step's work, not between two."""
        if self.seen == self.batch:
            os.kill(os.getpid(), self.number)
        self.seen += 1

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        """Stop once, where no batch of training is named."""
        if self.batch is None and not trainer.sanity_checking and self.seen >= 0:
            self.seen = -1_000_000
            os.kill(os.getpid(), self.number)
