"""Find a network's tensors in a file's content, whatever keys and prefixes its author used.

State dicts are saved under many keys (`model`, `state_dict`, `ema`, …) and with many prefixes (`module.`,
`student.backbone.`, …). No list of them is kept here: every dict of tensors in the content is searched for the
network's names, with any prefix.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from string import digits
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

MAX_DEPTH = 4
"""Levels of nested dicts that are searched."""

WRAPPERS = frozenset(("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"))
"""Parts of names that torch's wrappers insert: data parallelism, `torch.compile`, …"""

COUNTER = "num_batches_tracked"
"""Batch norm's buffer, which files from before torch 0.4.1 lack."""


@dataclass(frozen=True)
class Candidate:
    """Tensors in a file that may be a network's weights.

    Attributes:
        keys: path of the state dict in the file's content; empty if it is the content itself.
        prefix: of the network's names.
        inner: part that wrapped modules insert into some names behind the prefix.
        weights: tensors by the network's names.
        left_out: unused names of the state dict.
        problems: why it does not fit; empty if it does.
    """

    keys: tuple[str, ...]
    prefix: str
    inner: str
    weights: dict[str, Tensor]
    left_out: list[str]
    problems: list[str]

    def __str__(self) -> str:
        parts = [f"key {'.'.join(self.keys)}" if self.keys else "", f"prefix {self.prefix}" if self.prefix else ""]
        parts += [f"{self.inner} within some names" if self.inner else ""]
        return ", ".join(part for part in parts if part) or "the top level"

    def is_plain(self) -> bool:
        """Return whether the file is the network's state dict and nothing else."""
        return not (self.keys or self.prefix or self.inner or self.left_out)

    def equals(self, other: "Candidate") -> bool:
        """Return whether both have the same values."""
        return all(torch.equal(tensor, other.weights[name]) for name, tensor in self.weights.items())


@dataclass(frozen=True)
class Wanted:
    """The names and shapes to find in a file.

    Attributes:
        tensors: tensors by name, of which only the shapes matter.
        counters: names of batch norm's counters, which an old file may lack.
        head: prefix of the last layer's names if that layer is not needed; in the file it may have any shape.
        other_names: regular expressions of names in old files or those of other projects, with their replacements.
    """

    tensors: Mapping[str, Tensor]
    counters: frozenset[str]
    head: str | None = None
    other_names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, network: nn.Module, **kwargs: Any) -> "Wanted":
        """Return all tensors of a network, or those of all layers but its `head`.

        A network's own attribute `other_names` is used where none are given.
        """
        head = kwargs.get("head")
        kwargs.setdefault("other_names", getattr(network, "other_names", {}))
        tensors = {name: it for name, it in network.state_dict().items() if not (head and name.startswith(head))}
        norms = [name for name, module in network.named_modules() if isinstance(module, _NormBase)]
        counters = frozenset(f"{name}.{COUNTER}".lstrip(".") for name in norms) & tensors.keys()
        return cls(tensors, counters, **kwargs)

    def current(self, name: str) -> str:
        """Return the network's name for one in a file."""
        for other, current in self.other_names.items():
            name = re.sub(other, current, name)
        return name


def candidates(wanted: Wanted, content: Any) -> list[Candidate]:
    """Find possible weights of a network in a file's content.

    Args:
        wanted: the names and shapes to find.
        content: as returned by `read_weights`.

    Returns:
        All that fit. If none does, the closest one with its problems. Empty if the content has no dict of tensors.
    """
    found = [
        candidate for keys, tensors in _state_dicts(content) for candidate in _in_state_dict(keys, tensors, wanted)
    ]
    fitting = [candidate for candidate in found if not candidate.problems]
    return fitting or sorted(found, key=lambda candidate: len(candidate.problems))[:1]


def _state_dicts(content: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield each dict with tensors in the content once, outer ones first, with its path of keys."""
    level: list[tuple[tuple[str, ...], Any]] = [((), content)]
    seen: set[int] = set()
    for _ in range(MAX_DEPTH):
        inner: list[tuple[tuple[str, ...], Any]] = []
        for keys, part in level:
            if not isinstance(part, Mapping) or id(part) in seen:
                continue
            seen.add(id(part))
            named = {name: value for name, value in part.items() if isinstance(name, str)}
            if tensors := {name: value for name, value in named.items() if isinstance(value, Tensor)}:
                yield keys, tensors
            inner += [((*keys, name), value) for name, value in named.items() if isinstance(value, Mapping)]
        level = inner


def _in_state_dict(keys: tuple[str, ...], tensors: dict[str, Tensor], wanted: Wanted) -> list[Candidate]:
    """Return all that fit in one state dict, else the closest one."""
    closest: list[Candidate] = []
    for inner, spelled in _spellings([*tensors], wanted):
        counts = _prefixes(spelled, wanted)
        enough = len(wanted.tensors) - len(wanted.counters)
        likely = [prefix for prefix, count in counts.items() if count >= enough]
        tried = []
        for prefix in likely or [prefix for prefix, _ in counts.most_common(1)] or [""]:
            under = {name.removeprefix(prefix): own for name, own in spelled.items() if name.startswith(prefix)}
            weights, problems = _compare({name: tensors[own] for name, own in under.items()}, wanted)
            taken = {under[name] for name in weights if name in under}
            left_out = [name for name in tensors if name not in taken]
            tried.append(Candidate(keys, prefix, inner, weights, left_out, problems))
        if fitting := [candidate for candidate in tried if not candidate.problems]:
            return fitting
        closest += tried
    return sorted(closest, key=lambda candidate: len(candidate.problems))[:1]


def _spellings(names: list[str], wanted: Wanted) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ways to read the names of a state dict: the inner part removed from some, and names by new name."""
    today = {wanted.current(name): name for name in names}
    yield "", today
    bare = {".".join(part for part in name.split(".") if part not in WRAPPERS): own for name, own in today.items()}
    within = sorted({part for name in names for part in name.split(".") if part in WRAPPERS})
    if len(bare) == len(today) and within:
        yield " and ".join(f"{part}." for part in within), bare
    counts = _prefixes(today, wanted)
    for (short, some), (long, others) in product(counts.items(), repeat=2):
        if short != long and long.startswith(short) and some + others <= len(wanted.tensors):
            spelled = {
                (short + name.removeprefix(long) if name.startswith(long) else name): own for name, own in today.items()
            }
            if len(spelled) == len(today):
                yield long.removeprefix(short), spelled


def _prefixes(names: Iterable[str], wanted: Wanted) -> Counter[str]:
    """Count the prefixes of the network's names."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted.tensors:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return counts


def _compare(found: dict[str, Tensor], wanted: Wanted) -> tuple[dict[str, Tensor], list[str]]:
    """Return the network's weights among tensors found under one prefix, and the problems with them."""
    expected = wanted.tensors
    weights = {name: found[name] for name in expected if name in found}
    if wanted.counters.isdisjoint(found):  # an old file; torch initialises them to 0, too
        zeros = {name: torch.zeros_like(expected[name], device="cpu") for name in wanted.counters}
        weights, found = weights | zeros, found | zeros
    beside = {name for name in found if name not in expected and not _is_of_its_kind(name, wanted)}
    return weights, misfits({name: tensor for name, tensor in found.items() if name not in beside}, expected)


def _is_of_its_kind(name: str, wanted: Wanted) -> bool:
    """Return whether an extra name belongs to a larger network of the same kind, not to a separate part.

    `layer1.3.weight` and `linear3.weight` do where the network has `layer1.2.weight` and `linear2.weight`;
    `head.weight` does not.
    """
    if wanted.head and name.startswith(wanted.head):
        return False
    tops = {other.partition(".")[0] for other in wanted.tensors}
    series = {top.rstrip(digits) for top in tops if top.endswith(tuple(digits))}
    top = name.partition(".")[0]
    return not tops or top in tops or (top.endswith(tuple(digits)) and top.rstrip(digits) in series)


def misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return the differences between a file's tensors and a network's: names, shapes and dtypes."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not in the network" for name in found if name not in expected]
    both = [(name, found[name], tensor) for name, tensor in expected.items() if name in found]
    problems += [
        f"{name} is {_shape(mine)} in the file and {_shape(its)} in the network"
        for name, mine, its in both
        if mine.shape != its.shape
    ]
    return problems + [
        f"{name} is {_kind(mine)} in the file and {_kind(its)} in the network"
        for name, mine, its in both
        if mine.shape == its.shape and not _has_values_for(mine, its)
    ]


def _has_values_for(found: Tensor, expected: Tensor) -> bool:
    """Return whether a tensor's values can be copied into another: quantised integers cannot into floats."""
    is_dense = found.layout is torch.strided and not found.is_meta
    return is_dense and (found.is_floating_point() or not expected.is_floating_point())


def _kind(tensor: Tensor) -> str:
    layout = "" if tensor.layout is torch.strided else f"{tensor.layout} "
    return f"{'empty ' if tensor.is_meta else ''}{layout}{tensor.dtype}".replace("torch.", "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
