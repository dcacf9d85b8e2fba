"""Correct the output biases of a student that was trained without some of the classes."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from scipy.optimize import minimize
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from kd_lightning.batch import UNLABELLED, Batch, as_batch, data_of
from kd_lightning.callbacks.results import leaves_files, record
from kd_lightning.utils.progress import progress_bar
from kd_lightning.utils.run_folder import run_folder

ITERATIONS = 200
TOLERANCE = 1e-6
"""Largest difference between mean probability and frequency at which the search for offsets stops."""

GRID = torch.arange(-200, 201) / 10
"""Offsets that the test-optimal rule tries: -20 to 20 in steps of 0.1, the resolution of the paper's figures."""


def frequency_bias(logits: Tensor, frequency: Tensor, classes: Tensor) -> Tensor:
    """Return the offsets with which the mean predicted probability of each class equals its frequency.

    They minimise the convex function mean(logsumexp(logits + b)) - frequency · b, whose gradient is mean probability
    minus frequency. No test data is used, and of the training labels only their frequencies.

    Args:
        logits: (N, classes), of training images of all classes.
        frequency: (classes,), in the full training set, with sum 1.
        classes: int64, the classes that get an offset; the others keep 0.

    Returns:
        float (classes,).
    """
    logits, target = logits.double(), frequency.double()[classes]

    def shifted(offset: Any) -> Tensor:
        bias = logits.new_zeros(logits.shape[1])
        bias[classes] = torch.as_tensor(offset)
        return logits + bias

    def objective(offset: Any) -> float:
        return float(shifted(offset).logsumexp(dim=-1).mean() - target @ torch.as_tensor(offset))

    def gradient(offset: Any) -> Any:
        return (shifted(offset).softmax(dim=-1)[:, classes].mean(dim=0) - target).numpy()

    def hessian(offset: Any) -> Any:
        probability = shifted(offset).softmax(dim=-1)[:, classes]
        return (probability.mean(dim=0).diag() - probability.T @ probability / len(probability)).numpy()

    start, options = torch.zeros(len(classes), dtype=torch.float64).numpy(), {"gtol": TOLERANCE, "maxiter": ITERATIONS}
    found = minimize(objective, start, jac=gradient, hess=hessian, method="trust-exact", options=options)
    bias = torch.zeros(logits.shape[1])
    bias[classes] = torch.as_tensor(found.x).float()
    return bias


def optimal_bias(logits: Tensor, label: Tensor, classes: Tensor) -> Tensor:
    """Return the offset, common to all corrected classes, with the fewest errors on the test set itself.

    It uses the test labels, so the resulting error is not an estimate; it is comparable with the paper's, whose offset
    was chosen in this way. Of equally good offsets the smallest is returned.

    Args:
        logits: (N, classes), of the test images.
        label: int64 (N,), of the test images.
        classes: int64, the classes that get the offset; the others keep 0.

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
    """Adds the errors of a test after bias correction to its results.

    The corrected classes are those left out of training or, if fewer were kept, those kept. `results.json` gets the
    errors over all classes and over the corrected ones for three rules: `as_trained`; `frequency`, which needs no test
    labels (`frequency_bias`); `test_optimal`, the paper's, which chooses the offset on the test set (`optimal_bias`).
    If training had every class, nothing is computed.

    Source: Hinton, Vinyals and Dean 2015, section 3 (arXiv 1503.02531).
    """

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the collected logits and labels."""
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
        """Collect the logits and labels of a batch."""
        self._logits.append(outputs.cpu())
        self._labels.append(as_batch(batch).label.cpu())

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather logits and labels from all processes."""
        if trainer.world_size > 1:
            device = pl_module.device
            self._logits = [each.cpu() for each in gather_all_tensors(torch.cat(self._logits).to(device))]
            self._labels = [each.cpu() for each in gather_all_tensors(torch.cat(self._labels).to(device))]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the offsets of each rule and count its errors."""
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
    """Return logits and labels of all labelled training images, unaugmented, including the classes left out.

    They are computed in the precision of the test, whose logits the offsets are added to.
    """
    data.setup("fit")
    module.eval()
    logits, labels = [], []
    batches = torch.arange(data.train_count).split(data.eval_batch_size)
    for index in progress_bar(batches, "logits of the training images"):
        batch = data.make_batch(index.to(module.device))
        with trainer.precision_plugin.test_step_context():
            logits.append(module(batch.image).float().cpu())
        labels.append(batch.label.cpu())
    label = torch.cat(labels)
    return torch.cat(logits)[label != UNLABELLED], label[label != UNLABELLED]
