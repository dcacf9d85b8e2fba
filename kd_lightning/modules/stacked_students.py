"""Many students of one teacher, trained at once."""

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
from kd_lightning.losses import soft_target_loss, soft_target_losses
from kd_lightning.modules.distill import DistillModule
from kd_lightning.modules.metrics import InFloat32
from kd_lightning.modules.stack import Stack


class PopulationModule(DistillModule):
    """Students that differ in temperature, soft weight and seed: each is the one that `DistillModule` would train.

    The members share batches, views and the teacher's answers; their weights are stacked, and each weight's gradient
    is that of its own member's loss alone, so that an optimizer that treats every weight by itself trains each member
    as it would be trained alone, with the same order of the images, to within rounding.

    Args:
        net: makes a student's network.
        teacher: see `DistillModule`.
        teacher_ckpt: see `DistillModule`.
        members: of each its temperature, above 0, its soft weight, at least 0, and the seed of its first weights.
        hard_weight: of all members, at least 0.
        **kwargs: optimizer, lr_scheduler, steps_at_once, compile and cache_teacher, see `DistillModule`.

    Raises:
        UserError: see `DistillModule`; no members, or features or a soft loss of the user's own.
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
        stack = Stack([_student(net, seed) for seed in seeds])
        if kwargs.get("features") or kwargs.get("soft_loss", soft_target_loss) is not soft_target_loss:
            raise UserError("features, soft_loss: found, but a population has the soft-target loss alone")
        super().__init__(
            stack,
            teacher,
            teacher_ckpt,
            temperature=min(temperatures),  # the smallest speak for all when they are checked
            soft_weight=min(soft_weights),
            hard_weight=hard_weight,
            **kwargs,
        )
        self._temperatures, self._soft_weights = torch.tensor(temperatures), torch.tensor(soft_weights)
        self.members_evaluation = MembersEvaluation(len(members))

    def setup(self, stage: str) -> None:
        """Refuse what is one student's alone; then as `DistillModule` does."""
        if stage not in ("fit", "validate"):
            raise UserError(f"{stage}: a population found, a single student expected; train the best one alone")
        super().setup(stage)

    def check_outputs(self, network: nn.Module, name: str) -> None:
        """Look at one member in the place of all; see `ClassifierModule`."""
        if network is not self.net:
            super().check_outputs(network, name)
        else:
            super().check_outputs(self.student(0), name)

    def student(self, number: int) -> nn.Module:
        """A copy of one member's network."""
        network = deepcopy(self.net.form).to_empty(device=self.device)
        network.load_state_dict(self.net.member(number))
        return network

    def losses(self, batch: Batch, logits: Tensor) -> dict[str, Tensor]:
        """`loss`, the sum of the members'; and the members' means of `hard_loss` and `soft_loss`."""
        self._temperatures, self._soft_weights = self._temperatures.to(logits), self._soft_weights.to(logits)
        hard = cross_entropies(logits, batch.label)
        soft = soft_target_losses(logits, self._answer(batch), self._temperatures)
        loss = (self.hard_weight * hard + self._soft_weights * soft).sum()
        return {"loss": loss, "hard_loss": hard.mean(), "soft_loss": soft.mean()}

    def _evaluate(self, batch: Batch) -> Tensor:
        logits = self(batch.image).float()
        self.members_evaluation.update(logits, batch.label)
        return logits

    def on_validation_epoch_end(self) -> None:
        """Log the members' means, and keep each member's figures."""
        self.figures = self.members_evaluation.compute()
        self.members_evaluation.reset()
        if not self.trainer.sanity_checking:
            self._stop_unless_finite(self.figures["nll"].sum())
        self.log_dict({f"val/{name}": values.mean() for name, values in self.figures.items()})


def _student(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network as the seed makes it, for which nothing was drawn before."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def cross_entropies(logits: Tensor, label: Tensor) -> Tensor:
    """The mean cross-entropy of each member, (M,) in nats, from logits (M, B, classes) and labels int64 (B,)."""
    return F.cross_entropy(logits.movedim(0, 2), label[:, None].expand(-1, len(logits)), reduction="none").mean(0)


class MembersEvaluation(InFloat32, Metric):
    """Each member's `accuracy` in [0, 1] and mean negative log-likelihood `nll` in nats, both (M,).

    Args:
        members: M.
    """

    right: Tensor
    nll: Tensor
    images: Tensor

    def __init__(self, members: int) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(members), dist_reduce_fx="sum")
        self.add_state("nll", torch.zeros(members), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Add a batch: logits (M, B, classes), label (B,)."""
        self.right += (logits.argmax(dim=-1) == label).sum(dim=-1)
        self.nll += cross_entropies(logits, label) * len(label)
        self.images += len(label)

    def compute(self) -> dict[str, Tensor]:
        """The figures so far."""
        return {"accuracy": self.right / self.images, "nll": self.nll / self.images}
