"""Save a plot in the run folder, and show it to the loggers that take pictures."""

from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kd_lightning.utils.atomic_write import atomic_write


def show(trainer: Trainer, file: Path, figure: Figure) -> None:
    """Write a figure to a file, and show it to the loggers of a run.

    TensorBoard and Weights & Biases have it as image `test/<name of the file>`, MLflow as an artifact.
    """
    canvas = FigureCanvasAgg(figure)
    with atomic_write(file) as temporary:
        figure.savefig(temporary)
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    width, height = canvas.get_width_height()
    image = pixels.view(height, width, 4)[..., :3]
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(f"test/{file.stem}", image, trainer.current_epoch, dataformats="HWC")
        else:
            send(logger, f"test/{file.stem}", file)


def send(logger: Logger, tag: str, file: Path) -> None:
    """Send a picture's file to Weights & Biases or MLflow; other loggers take none."""
    if isinstance(logger, WandbLogger):
        logger.log_image(tag, [str(file)])
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(str(logger.run_id), str(file))
