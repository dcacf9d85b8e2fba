"""Train many students of one teacher at once."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from kd_lightning.batch import Batch
from kd_lightning.errors import UserError
from kd_lightning.losses import soft_target_losses
from kd_lightning.modules.classifier import StepOutput
from kd_lightning.modules.loss_terms import check_numbers
from kd_lightning.modules.metrics import InFloat32
from kd_lightning.modules.sanity import check_finite_nll
from kd_lightning.modules.stack import Stack
from kd_lightning.modules.student import StudentModule


class PopulationModule(StudentModule):
    """Train students that differ in temperature, soft weight and seed, each as `DistillModule` would train it alone.

    The members share batches, augmented views and the teacher's logits. Their weights are stacked, and each weight's
    gradient is that of its own member's loss. With an optimizer that treats every weight separately and the same order
    of the images, each member is trained as it would be alone, up to rounding.

    Args:
        net: makes a student's network.
        teacher: see `DistillModule`.
        teacher_ckpt: see `DistillModule`.
        members: for each its temperature, above 0, its soft weight, at least 0, and the seed of its initial weights.
        hard_weight: of all members, at least 0.
        **kwargs: cache_teacher, shard_teacher, optimizer, lr_scheduler, steps_at_once and compile, see `DistillModule`.

    Raises:
        UserError: there are no members, a number is out of range, or the teacher is refused as by `DistillModule`.
    """

    net: Stack

    def __init__(
        self,
        net: Callable[[], nn.Module],
        teacher: nn.Module,
        teacher_ckpt: str | list[str] | None,
        members: Sequence[tuple[float, float, int]],
        hard_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if not members:
            raise UserError("members: none found, at least one expected")
        if not all(math.isfinite(number) for member in members for number in member):
            raise UserError("members: finite numbers expected")
        temperatures, soft_weights, seeds = zip(*members, strict=True)
        check_numbers({"temperature": min(temperatures), "hard_weight": hard_weight, "soft_weight": min(soft_weights)})
        for name, default in (
            ("init_from", None),
            ("freeze", ()),
            ("lr_scale", None),
            ("decay_norms_and_biases", True),
        ):
            if kwargs.get(name, default) not in (default, []):
                raise UserError(f"{name}: {kwargs[name]} found, but students that are trained at once do not have it")
        super().__init__(Stack([_build(net, seed) for seed in seeds]), teacher, teacher_ckpt, **kwargs)
        self.hard_weight = hard_weight
        self._temperatures, self._soft_weights = torch.tensor(temperatures), torch.tensor(soft_weights)
        self.members_evaluation = MembersEvaluation(len(members))

    def setup(self, stage: str) -> None:
        """Refuse a test or prediction, which are of one student; else see `StudentModule`."""
        if stage not in ("fit", "validate"):
            raise UserError(f"{stage}: a population found, a single student expected; train the best one alone")
        super().setup(stage)

    def shared_step(self, batch: Batch) -> StepOutput:
        """Run students and teacher on a batch; `loss` is the sum over the members, its parts are their means."""
        unmixed_logits = None if batch.unmixed is None else self(batch.unmixed).float()
        logits = self(batch.image).float()
        teacher_logits, _ = self.teacher_outputs(batch)
        assert teacher_logits is not None  # it is missing in a test alone
        self._temperatures, self._soft_weights = self._temperatures.to(logits), self._soft_weights.to(logits)
        hard_losses = self._hard_losses(logits if unmixed_logits is None else unmixed_logits, batch)
        soft_losses = soft_target_losses(logits, teacher_logits, self._temperatures)
        loss = (self.hard_weight * hard_losses + self._soft_weights * soft_losses).sum()
        losses = {"loss": loss, "hard_loss": hard_losses.mean(), "soft_loss": soft_losses.mean()}
        return StepOutput(logits, losses, teacher_logits)

    def _hard_losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute each member's hard loss, (M,) in nats, from logits (M, B, classes)."""
        if self.hard_loss.is_plain and batch.target is None:
            return cross_entropies(logits, batch.label)
        return torch.stack([self.hard_loss(member, batch) for member in logits])

    def check_outputs(self, network: nn.Module, name: str) -> None:
        """Check one member in place of all; see `ClassifierModule`."""
        super().check_outputs(self.student(0) if network is self.net else network, name)

    def student(self, number: int) -> nn.Module:
        """Return a copy of one member's network."""
        network = deepcopy(self.net.template).to_empty(device=self.device)
        network.load_state_dict(self.net.member(number))
        return network

    def _evaluate(self, batch: Batch) -> Tensor:
        logits = self(batch.image).float()
        self.members_evaluation.update(logits, batch.label)
        return logits

    def on_validation_epoch_end(self) -> None:
        """Log the members' means, and keep each member's metrics as `figures`."""
        self.figures = self.members_evaluation.compute()
        self.members_evaluation.reset()
        if not self.trainer.sanity_checking:
            check_finite_nll(self.figures["nll"].sum(), self.current_epoch)
        self.log_dict({f"val/{name}": values.mean() for name, values in self.figures.items()})


def _build(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network from a seed, without changing the generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def cross_entropies(logits: Tensor, label: Tensor) -> Tensor:
    """Compute each member's mean cross-entropy, (M,) in nats, from logits (M, B, classes) and labels int64 (B,)."""
    return F.cross_entropy(logits.movedim(0, 2), label[:, None].expand(-1, len(logits)), reduction="none").mean(0)


class MembersEvaluation(InFloat32, Metric):
    """Compute each member's `accuracy` in [0, 1] and mean negative log-likelihood `nll` in nats, both (M,).

    Args:
        members: M.
    """

    correct: Tensor
    nll: Tensor
    images: Tensor

    def __init__(self, members: int) -> None:
        super().__init__()
        self.add_state("correct", torch.zeros(members), dist_reduce_fx="sum")
        self.add_state("nll", torch.zeros(members), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Add a batch: logits (M, B, classes), label (B,)."""
        self.correct += (logits.argmax(dim=-1) == label).sum(dim=-1)
        self.nll += cross_entropies(logits, label) * len(label)
        self.images += len(label)

    def compute(self) -> dict[str, Tensor]:
        """Compute both metrics over all batches."""
        return {"accuracy": self.correct / self.images, "nll": self.nll / self.images}
