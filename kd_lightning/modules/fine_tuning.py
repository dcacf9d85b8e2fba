"""Which parameters of a network are trained, and at which rate and weight decay."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from kd_lightning.errors import UserError

RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""Options of a parameter group that `OneCycleLR` sets."""


def matches(name: str, pattern: str) -> bool:
    """Return whether a parameter's name fits a pattern such as `layer1.*`, or lies in the layer that it names."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


class FineTuning:
    """Freeze parts of a network, and give others their own rate.

    Args:
        network: the trained network, whose frozen parameters get `requires_grad = False`.
        freeze: patterns of names of parameters or layers that are not trained.
        lr_scale: factor on the learning rate, at least 0, by pattern; the first that fits a name holds.
        decay_norms_and_biases: whether weight decay applies to parameters of one dimension too.

    Raises:
        UserError: a pattern fits no parameter, nothing is left to train, or a factor is below 0.
    """

    def __init__(
        self,
        network: nn.Module,
        freeze: Sequence[str] = (),
        lr_scale: Mapping[str, float] | None = None,
        decay_norms_and_biases: bool = True,
    ) -> None:
        self.lr_scale = dict(lr_scale or {})
        self.decays_all = decay_norms_and_biases
        names = [name for name, _ in network.named_parameters()]
        for option, patterns in {"freeze": freeze, "lr_scale": self.lr_scale}.items():
            if unused := [pattern for pattern in patterns if not any(matches(name, pattern) for name in names)]:
                raise UserError(
                    f"{option}: {unused[0]} found, which fits no parameter; names of parameters or layers such as "
                    f"{names[0]} expected, with * for any part"
                )
        if wrong := [factor for factor in self.lr_scale.values() if not 0 <= factor < float("inf")]:
            raise UserError(f"lr_scale: {wrong[0]} found, a number of at least 0 expected")
        frozen = {name for name in names if any(matches(name, pattern) for pattern in freeze)}
        if freeze and frozen == {*names}:
            raise UserError(f"freeze: {', '.join(freeze)} found, which leaves no parameter of the network to train")
        for name, parameter in network.named_parameters():
            if name in frozen:
                parameter.requires_grad_(False)
        self._frozen_norms = [
            module
            for name, module in network.named_modules()
            if frozen and isinstance(module, _NormBase) and _is_frozen(name, module, frozen, freeze)
        ]

    def keep_statistics(self) -> None:
        """Put frozen batch norms into evaluation mode: their running statistics are part of what is frozen."""
        for norm in self._frozen_norms:
            norm.eval()

    @property
    def is_plain(self) -> bool:
        """Return whether all trained parameters have the optimizer's options."""
        return self.decays_all and not self.lr_scale

    def groups(self, parameters: Iterable[tuple[str, Tensor]]) -> list[dict[str, Any]]:
        """Divide parameters into an optimizer's groups of equal options; `scale_rates` reads their `lr_scale`.

        Args:
            parameters: names in the network, and parameters.
        """
        groups: dict[tuple[float, bool], list[Tensor]] = {}
        for name, parameter in parameters:
            decays = self.decays_all or parameter.dim() > 1
            groups.setdefault((self._factor(name), decays), []).append(parameter)
        return [
            {"params": members, "lr_scale": factor, **({} if decays else {"weight_decay": 0.0})}
            for (factor, decays), members in groups.items()
        ]

    def _factor(self, name: str) -> float:
        return next((factor for pattern, factor in self.lr_scale.items() if matches(name, pattern)), 1.0)


def check_decay(optimizer: Optimizer) -> None:
    """Raise `UserError` where groups have no weight decay, for an optimizer that has none itself."""
    without = any(group.get("weight_decay") == 0 for group in optimizer.param_groups)
    if without and "weight_decay" not in optimizer.defaults:
        raise UserError(f"decay_norms_and_biases: false found, but {type(optimizer).__name__} has no weight_decay")


def scale_rates(optimizer: Optimizer) -> None:
    """Multiply the rates of a new optimizer's groups by their `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * group["lr_scale"]


def scale_schedule(optimizer: Optimizer, scheduler: Any) -> None:
    """Multiply the rates again where a new schedule has set those of all groups.

    Raises:
        UserError: a schedule that keeps the rates of all groups itself.
    """
    if all(group["lr_scale"] == 1 for group in optimizer.param_groups):
        return
    if isinstance(scheduler, CyclicLR):
        raise UserError("lr_scale: CyclicLR found, which sets the rates of all groups; OneCycleLR expected")
    if isinstance(scheduler, OneCycleLR):
        for group in optimizer.param_groups:
            group.update({name: group[name] * group["lr_scale"] for name in RATES})


def _is_frozen(name: str, norm: nn.Module, frozen: set[str], freeze: Sequence[str]) -> bool:
    """Return whether all parameters of a batch norm are frozen; one without parameters is by its buffers' names."""
    own = [f"{name}.{each}" for each, _ in norm.named_parameters(recurse=False)]
    if own:
        return frozen.issuperset(own)
    return any(matches(f"{name}.running_mean", pattern) for pattern in freeze)
