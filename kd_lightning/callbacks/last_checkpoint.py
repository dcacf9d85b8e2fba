"""The checkpoint that a training goes on from."""

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
"""What a process that a signal ended exits with."""


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt`: of each epoch's end, of validations within an epoch, and of the step that a signal stopped.

    An epoch's end is also where every training ends, whatever ended it: its length, `max_steps`, `max_time`, early
    stopping. When and whether there is a validation changes nothing of that.

    Either signal lets the step, or the validation, come to its end, on all processes the same one; then the state is
    written, and a line says how to go on from it. A second Ctrl-C ends the training at once, without. SLURM's other
    signals are Lightning's own.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
        self._before: dict[signal.Signals, Any] = {}
        self._received: signal.Signals | None = None
        self._patience: dict[EarlyStopping, int] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the patience of early stopping, which a checkpoint would replace by its own."""
        super().setup(trainer, pl_module, stage)
        self._patience = {stop: stop.patience for stop in trainer.early_stopping_callbacks}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to both signals, in the place of those who listen already."""
        super().on_train_start(trainer, pl_module)
        for early_stopping, patience in self._patience.items():
            early_stopping.patience = patience
        training_listens(True)
        if threading.current_thread() is threading.main_thread():  # which alone may set handlers
            self._before = {number: signal.signal(number, self._receive) for number in STATUS}

    def _receive(self, number: int, frame: Any) -> None:
        self._received = self._received or signal.Signals(number)
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])  # the next one is Python's

    def _stop_if_received(self, trainer: Trainer) -> None:
        """Have Lightning stop the training behind this step, if a process has received a signal.

        Lightning's own handler would talk to the other processes in the midst of what they are talking about.
        """
        if trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            trainer._signal_connector.received_sigterm = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Act on a signal that came during the step."""
        super().on_train_batch_end(trainer, pl_module, *args)
        self._stop_if_received(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch's end; of an epoch that was cut short, its state so far, from which a longer run goes on."""
        self._last_global_step_saved = -1  # a validation at the same step has saved the epoch as not ended
        progress: Any = trainer.fit_loop.epoch_progress
        cut_short = int(not _all_batches_done(trainer))
        progress.current.processed -= cut_short
        progress.total.processed -= cut_short
        super().on_train_epoch_end(trainer, pl_module)
        self._stop_if_received(trainer)
        progress.current.processed += cut_short
        progress.total.processed += cut_short

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save within an epoch; then act on a signal that came during the validation."""
        if not _all_batches_done(trainer) and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        if not trainer.sanity_checking:
            self._stop_if_received(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the state if it is a signal that ended the training, and say how to go on."""
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
            said = f"stopped by {received.name} after step {trainer.global_step}"
            print(f"kd-lightning: {said}; to go on: {shlex.join(words)}", file=sys.stderr)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen no longer; stop after all if a signal came too late to be acted on."""
        super().on_train_end(trainer, pl_module)
        received = self._received
        self._stop_listening()
        if received:
            raise Stopped(received)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no longer, where training did not come to its end."""
        super().teardown(trainer, pl_module, stage)
        self._stop_listening()

    def _stop_listening(self) -> None:
        """Let those listen who listened before: at the end of training, before Lightning's own handlers go."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before, self._received = {}, None
        training_listens(False)


def _all_batches_done(trainer: Trainer) -> bool:
    """Whether the epoch has no batch left; an epoch may end before, by `max_steps` or early stopping."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()
