"""The checkpoint from which a training resumes, also after SIGTERM or Ctrl-C."""

import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from kd_lightning.utils.run_folder import run_folder
from kd_lightning.utils.stopping import Stopped, training_listens

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit status of a process that a signal has ended."""


class LastCheckpoint(ModelCheckpoint):
    """Saves `last.ckpt` after each epoch, after validations within an epoch, and when a signal stops the training.

    Every training ends with the end of an epoch, also one that `max_steps`, `max_time` or early stopping ends. Whether
    and when there is a validation makes no difference.

    After SIGTERM or Ctrl-C, all processes finish the same step or validation; then the state is saved, and a line says
    how to resume. A second Ctrl-C ends the training at once, without saving. Lightning handles SLURM's other signals.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
        self._before: dict[signal.Signals, Any] = {}
        self._received: signal.Signals | None = None
        self._patience: dict[EarlyStopping, int] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the patience of early stopping, which loading a checkpoint would replace."""
        super().setup(trainer, pl_module, stage)
        self._patience = {stop: stop.patience for stop in trainer.early_stopping_callbacks}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the handlers of both signals; restore the patience of early stopping."""
        super().on_train_start(trainer, pl_module)
        for early_stopping, patience in self._patience.items():
            early_stopping.patience = patience
        training_listens(True)
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            self._before = {number: signal.signal(number, self._receive) for number in STATUS}

    def _receive(self, number: int, frame: Any) -> None:
        self._received = self._received or signal.Signals(number)
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])  # the next Ctrl-C is Python's

    def _stop_if_received(self, trainer: Trainer) -> None:
        """Stop the training after this step if any process has received a signal.

        Lightning's own handler would start a collective operation in the middle of another one.
        """
        if trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            trainer._signal_connector.received_sigterm = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Stop after a signal during the step."""
        super().on_train_batch_end(trainer, pl_module, *args)
        self._stop_if_received(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of an epoch; an interrupted epoch is saved as unfinished, so that it can be resumed."""
        self._last_global_step_saved = -1  # a validation at the same step saved the epoch as unfinished
        progress: Any = trainer.fit_loop.epoch_progress
        cut_short = int(not _all_batches_done(trainer))
        progress.current.processed -= cut_short
        progress.total.processed -= cut_short
        super().on_train_epoch_end(trainer, pl_module)
        self._stop_if_received(trainer)
        progress.current.processed += cut_short
        progress.total.processed += cut_short

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save within an epoch; then stop after a signal during the validation."""
        if not _all_batches_done(trainer) and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        if not trainer.sanity_checking:
            self._stop_if_received(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the state if a signal ended the training, and print how to resume."""
        super().on_exception(trainer, pl_module, exception)
        try:
            if isinstance(exception, SIGTERMException) and self.dirpath:
                self._save_stopped(trainer, exception)
        finally:
            self._stop_listening()

    def _save_stopped(self, trainer: Trainer, exception: SIGTERMException) -> None:
        file = Path(str(self.dirpath)) / f"{self.filename}.ckpt"
        trainer.save_checkpoint(file)
        received = self._received or signal.SIGTERM
        exception.code = STATUS[received]
        config = run_folder(trainer) / "config.yaml"  # on every process: they agree on it
        if trainer.is_global_zero:
            words = ["kd-lightning", "fit", "--config", str(config), "--ckpt_path", str(file)]
            message = f"stopped by {received.name} after step {trainer.global_step}"
            print(f"kd-lightning: {message}; to go on: {shlex.join(words)}", file=sys.stderr)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the handlers; stop now if a signal came after the last step."""
        super().on_train_end(trainer, pl_module)
        received = self._received
        self._stop_listening()
        if received:
            raise Stopped(received)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the handlers if the training has not ended normally."""
        super().teardown(trainer, pl_module, stage)
        self._stop_listening()

    def _stop_listening(self) -> None:
        """Restore the handlers of before, at the end of training, before Lightning removes its own."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before, self._received = {}, None
        training_listens(False)


def _all_batches_done(trainer: Trainer) -> bool:
    """Return whether all batches of the epoch are done; `max_steps` or early stopping may end it before."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()
