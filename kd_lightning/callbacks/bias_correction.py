"""Repairs a student that was trained without some of the classes."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from kd_lightning.batch import Batch, as_batch, data_of
from kd_lightning.callbacks.results import leaves_files, record, run_folder
from kd_lightning.utils.progress import progress_bar

CHUNK = 1000
"""Training images shown at once to find out how often each class is predicted."""

ITERATIONS = 200
TOLERANCE = 1e-6
RIDGE = 1e-9
LONGEST_STEP = 5.0
"""Of one iteration, in logits: where all predictions are certain the curvature says next to nothing."""

GRID = torch.arange(-200, 201) / 10
"""Offsets that the test-optimal rule tries: -20 to 20 in steps of 0.1, as fine as the paper's figures."""


def frequency_bias(logits: Tensor, frequency: Tensor, classes: Tensor) -> Tensor:
    """Offsets under which each class's mean predicted probability equals its frequency.

    Uses no test data and, of the training labels, their frequencies alone. The offsets minimise the convex
    mean(logsumexp(logits + b)) - frequency · b, whose gradient is mean probability minus frequency: Newton's method
    with step halving finds them.

    Args:
        logits: (N, classes), of training images of all classes.
        frequency: (classes,), of the full training set, adding up to 1.
        classes: int64, those whose offset is sought; the others keep 0.

    Returns:
        float (classes,).
    """
    logits, target = logits.double(), frequency.double()[classes]
    bias = torch.zeros(logits.shape[1], dtype=torch.float64)

    def objective(bias: Tensor) -> Tensor:
        return (logits + bias).logsumexp(dim=-1).mean() - target @ bias[classes]

    for _ in range(ITERATIONS):
        probability = (logits + bias).softmax(dim=-1)[:, classes]
        gradient = probability.mean(dim=0) - target
        if gradient.abs().max() < TOLERANCE:
            break
        hessian = probability.mean(dim=0).diag() - probability.T @ probability / len(logits)
        step = torch.zeros_like(bias)
        step[classes] = torch.linalg.solve(hessian + RIDGE * torch.eye(len(classes), dtype=torch.float64), gradient)
        step *= min(1.0, LONGEST_STEP / float(step.abs().max()))
        now = objective(bias)
        while objective(bias - step) > now and step.abs().max() > TOLERANCE:
            step /= 2
        bias -= step
    return bias.float()


def optimal_bias(logits: Tensor, label: Tensor, classes: Tensor) -> Tensor:
    """The common offset of the classes concerned that makes the fewest errors on the test set itself.

    It reads the test labels, so its figure is no estimate of anything; it is there to stand beside the paper's,
    which was chosen in this way. Of equally good offsets the smallest is taken.

    Args:
        logits: (N, classes), of the test images.
        label: int64 (N,), of the test images.
        classes: int64, those whose offset is sought; the others keep 0.

    Returns:
        float (classes,).
    """
    candidates = GRID[GRID.abs().argsort(stable=True)]
    errors = []
    for offset in candidates:
        shifted = logits.clone()
        shifted[:, classes] += offset
        errors.append(int((shifted.argmax(dim=-1) != label).sum()))
    bias = torch.zeros(logits.shape[1])
    bias[classes] = candidates[int(torch.tensor(errors).argmin())]
    return bias


class BiasCorrection(Callback):
    """Adds to a test the figures after the biases of the classes concerned were set right.

    The classes concerned are those left out of training or, where fewer were kept, those kept. Three figures go to
    `results.json` and the log: `as_trained`; `frequency`, the rule that needs no test labels (`frequency_bias`);
    `test_optimal`, the paper's, whose offset is chosen on the test set. Each with its errors over all classes and
    over the classes concerned. Where training saw every class, nothing is done.

    Source: Hinton, Vinyals and Dean 2015, section 3 (arXiv 1503.02531).
    """

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start collecting."""
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect one batch."""
        self._logits.append(outputs.cpu())
        self._labels.append(as_batch(batch).label.cpu())

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put together what all processes measured."""
        if trainer.world_size > 1:
            device = pl_module.device
            self._logits = [each.cpu() for each in gather_all_tensors(torch.cat(self._logits).to(device))]
            self._labels = [each.cpu() for each in gather_all_tensors(torch.cat(self._labels).to(device))]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find both rules' offsets and count the errors under each."""
        data = data_of(trainer)
        missing, run = getattr(data, "missing_classes", ()), run_folder(trainer)
        if not missing or not trainer.is_global_zero or not leaves_files(trainer):
            return
        kept = [c for c in range(data.num_classes) if c not in missing]
        classes = torch.tensor(missing if len(missing) <= len(kept) else kept)
        logits, label = torch.cat(self._logits), torch.cat(self._labels)
        train_logits, train_label = _training_set(data, trainer, pl_module)
        frequency = train_label.bincount(minlength=data.num_classes) / len(train_label)
        rules: dict[str, Callable[[], Tensor]] = {
            "as_trained": lambda: torch.zeros(data.num_classes),
            "frequency": lambda: frequency_bias(train_logits, frequency, classes),
            "test_optimal": lambda: optimal_bias(logits, label, classes),
        }
        figures: dict[str, Any] = {"classes": [data.class_names[c] for c in classes.tolist()]}
        for rule, find in rules.items():
            bias = find()
            wrong = (logits + bias).argmax(dim=-1) != label
            figures[rule] = {
                "errors": int(wrong.sum()),
                "class_errors": int(wrong[torch.isin(label, classes)].sum()),
                "bias": {data.class_names[c]: round(float(bias[c]), 3) for c in classes.tolist()},
            }
        record(trainer, run, bias_correction=figures)


@torch.no_grad()
def _training_set(data: Any, trainer: Trainer, module: LightningModule) -> tuple[Tensor, Tensor]:
    """Logits and labels of all training images, untouched by views, those left out of training among them.

    They are computed in the precision of the test, to whose logits the offsets are added.
    """
    data.setup("fit")
    module.eval()
    logits, labels = [], []
    for index in progress_bar(torch.arange(data.train_count).split(CHUNK), "bias of the classes left out"):
        batch = data.deal(index.to(module.device))
        with trainer.precision_plugin.test_step_context():
            logits.append(module(batch.image).float().cpu())
        labels.append(batch.label.cpu())
    return torch.cat(logits), torch.cat(labels)
