"""Save a plot in the run folder and in TensorBoard."""

from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kd_lightning.utils.atomic_write import atomic_write


def show(trainer: Trainer, file: Path, figure: Figure) -> None:
    """Write a figure to a file, and as image `test/<name of the file>` to TensorBoard."""
    canvas = FigureCanvasAgg(figure)
    with atomic_write(file) as temporary:
        figure.savefig(temporary)
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    width, height = canvas.get_width_height()
    image = pixels.view(height, width, 4)[..., :3]
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(f"test/{file.stem}", image, trainer.current_epoch, dataformats="HWC")
