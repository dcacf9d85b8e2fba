"""`--ckpt_path`: which checkpoint a command reads, and what that checkpoint is good for."""

from pathlib import Path
from typing import Any

from kd_lightning.callbacks.results import RESUME_WORDS
from kd_lightning.checkpoints.description import KEY
from kd_lightning.checkpoints.weights import is_of_module, load_weights, resolve_checkpoint
from kd_lightning.cli.run_config import named_run, saved_run, stay_in
from kd_lightning.errors import UserError
from kd_lightning.modules.resuming import KEY as TRAINING
from kd_lightning.teachers import without_own_input


def choose_checkpoint(config: Any, command: str) -> None:
    """Replace a run folder in `ckpt_path` by its checkpoint; without `ckpt_path`, evaluate the run of the config.

    Args:
        config: all options of the command, changed in place.
        command: `fit`, `validate`, `test` or `predict`.

    Raises:
        UserError: no checkpoint to evaluate.
    """
    path = config.get("ckpt_path")
    if path in RESUME_WORDS:
        return
    run = saved_run(config.get("config") or [])
    if path is None and command != "fit":
        path = named_run(config.trainer) or run
        if path is None:
            raise UserError("ckpt_path: none found, a checkpoint or run folder expected (--ckpt_path PATH)")
    if path is not None:
        file = resolve_checkpoint(path, "ckpt_path", "last" if command == "fit" else "best")
        config["ckpt_path"] = str(file)
        if run and run.resolve() in file.resolve().parents:
            stay_in(config.trainer, run)


def check_checkpoint(path: Path, module: Any, command: str) -> dict[str, Any] | None:
    """Read a checkpoint before Lightning does, which would raise a traceback for a damaged or unfitting one.

    Its weights are loaded into the network of `module`.

    Returns:
        The checkpoint; None for a file of weights alone, which Lightning cannot restore.

    Raises:
        UserError: a file of weights alone to resume from, or one that cannot be read or does not fit.
    """
    content = load_weights(without_own_input(module.net), path, "ckpt_path")
    if is_of_module(content, module):
        if command == "fit":
            module.init_from = None  # the checkpoint has the weights
        return content
    if command == "fit":
        raise UserError(
            f"ckpt_path: {path} is no checkpoint of such a {type(module).__name__}, one expected to go on "
            "from; weights alone are for test, predict and teacher_ckpt"
        )
    module.weights_from = str(path), content.get(KEY) if isinstance(content, dict) else None
    return None


def check_resumable(checkpoint: dict[str, Any], module: Any, data: Any, seed: Any, seed_is_chosen: bool) -> Any:
    """Refuse to resume a training with options that its checkpoint contradicts, before anything is written.

    Returns:
        The seed of the training: that of the checkpoint, where it has one.

    Raises:
        UserError: another optimizer or other data than in the checkpoint, or another seed that the user chose.
    """
    kept = module.check_resumable(checkpoint) and checkpoint[TRAINING].get("seed")
    if isinstance(kept, int) and kept != seed:
        if seed_is_chosen:
            raise UserError(f"seed_everything: {seed} found, {kept} expected, as in the checkpoint")
        seed = kept
    state = checkpoint.get(type(data).__qualname__)
    if state and hasattr(data, "check_resumable"):
        data.check_resumable(state)
    return seed
