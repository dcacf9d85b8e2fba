"""Trainings on several devices, for which Lightning starts further processes."""

import subprocess
from typing import Any

import torch

from kd_lightning.errors import UserError
from kd_lightning.utils.stopping import Stopped


def spawns_processes(trainer: dict[str, Any]) -> bool:
    """Whether Lightning starts further processes for the `trainer` of a config.

    Raises:
        UserError: its devices are neither a number, nor a list of numbers, nor auto.
    """
    if trainer["num_nodes"] > 1:
        return True
    devices = trainer["devices"]
    if isinstance(devices, str) and "," in devices:
        devices = [device for device in devices.split(",") if device.strip()]
    if isinstance(devices, list):
        return len(devices) > 1
    if devices is None or str(devices).strip() in ("auto", "-1"):
        return trainer["accelerator"] != "cpu" and torch.cuda.device_count() > 1
    try:
        return int(devices) > 1
    except ValueError as error:
        raise UserError(f"trainer.devices: {devices} found, a number, a list of numbers or auto expected") from error


def run_process(command: list[str], environment: dict[str, str]) -> int:
    """Run a command and return its exit status. A signal that stops this process stops the command first.

    Raises:
        Stopped: a signal has stopped this process or the command.
    """
    with subprocess.Popen(command, env=environment) as process:
        try:
            status = process.wait()
        except (Stopped, KeyboardInterrupt):
            process.terminate()
            process.wait()
            raise
    if status in (130, 143):
        raise Stopped(status - 128)
    return status
