"""Finding a network's tensors in the content of a file that anyone may have saved.

State dicts come under many keys (`model`, `state_dict`, `ema`, …) and their names with many prefixes (`module.`,
`student.backbone.`, …). None of those words is known here: every dict of tensors in the content is searched for the
network's own names, whatever stands before them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from string import digits
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

DEEPEST = 4
"""Dicts within dicts that are searched."""

WRAPPERS = frozenset(("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"))
"""Parts of names that torch's wrappers add, at any place: data parallelism, `torch.compile`, …"""

COUNTER = "num_batches_tracked"
"""Batch norm's buffer that files from before torch 0.4.1 lack."""


@dataclass(frozen=True)
class Candidate:
    """Tensors of a file that may be a network's.

    Attributes:
        keys: where the state dict is in the file's content, key by key; empty where it is the content itself.
        prefix: what stands before the network's names.
        inner: what some names have behind the prefix beside, at the place of a module that was wrapped.
        weights: by the network's names.
        left_out: names in the state dict that are not taken.
        problems: why it does not fit; empty where it does.
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
        """Whether it is a state dict of the network as torch saves it, and nothing else."""
        return not (self.keys or self.prefix or self.inner or self.left_out)

    def equals(self, other: "Candidate") -> bool:
        """Whether both have the same values."""
        return all(torch.equal(tensor, other.weights[name]) for name, tensor in self.weights.items())


@dataclass(frozen=True)
class Wanted:
    """What is searched for.

    Attributes:
        tensors: by their names, with their shapes; their values play no part.
        counters: names of batch norm's counters among them, which an old file may lack.
        head: beginning of the names of a last layer that is not wanted, which a file may have in any shape.
        old_names: regular expression of what old files have within names, and what stands there today.
    """

    tensors: Mapping[str, Tensor]
    counters: frozenset[str]
    head: str | None = None
    old_names: tuple[str, str] | None = None

    @classmethod
    def of(cls, network: nn.Module, **kwargs: Any) -> "Wanted":
        """All tensors of a network; of one without its `head`, those of the other layers."""
        head = kwargs.get("head")
        tensors = {name: it for name, it in network.state_dict().items() if not (head and name.startswith(head))}
        norms = [name for name, module in network.named_modules() if isinstance(module, _NormBase)]
        counters = frozenset(f"{name}.{COUNTER}".lstrip(".") for name in norms) & tensors.keys()
        return cls(tensors, counters, **kwargs)

    def current(self, name: str) -> str:
        """A name as it is today."""
        return re.sub(*self.old_names, name) if self.old_names else name


def candidates(wanted: Wanted, content: Any) -> list[Candidate]:
    """Find what may be a network's weights in a file's content.

    Args:
        wanted: names and shapes that they must have.
        content: of the file, as `read_weights` gives it.

    Returns:
        All that fit. Where none does, the one that comes closest, with its problems. Empty where the content holds no
        dict of tensors.
    """
    found = [
        candidate for keys, tensors in _state_dicts(content) for candidate in _in_state_dict(keys, tensors, wanted)
    ]
    fitting = [candidate for candidate in found if not candidate.problems]
    return fitting or sorted(found, key=lambda candidate: len(candidate.problems))[:1]


def _state_dicts(content: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Each dict in the content that has tensors by name, once, the outermost first."""
    level: list[tuple[tuple[str, ...], Any]] = [((), content)]
    seen: set[int] = set()
    for _ in range(DEEPEST):
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
    """All that fit in one state dict; else the one that comes closest."""
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
    """Ways to read the names of a state dict: what is left out within some of them, and each name by its spelling."""
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
    """What stands before the network's names, and how often."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted.tensors:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return counts


def _compare(found: dict[str, Tensor], wanted: Wanted) -> tuple[dict[str, Tensor], list[str]]:
    """The network's weights among what is found under a prefix, and what keeps them from fitting."""
    expected = wanted.tensors
    weights = {name: found[name] for name in expected if name in found}
    if wanted.counters.isdisjoint(found):  # the file is older than they are; torch starts them at 0, too
        zeros = {name: torch.zeros_like(expected[name], device="cpu") for name in wanted.counters}
        weights, found = weights | zeros, found | zeros
    beside = {name for name in found if name not in expected and not _is_of_its_kind(name, wanted)}
    return weights, misfits({name: tensor for name, tensor in found.items() if name not in beside}, expected)


def _is_of_its_kind(name: str, wanted: Wanted) -> bool:
    """Whether a name that the network lacks tells of a larger network of its kind, not of a part beside it.

    `layer1.3.weight` and `linear3.weight` do, beside `layer1.2.weight` and `linear2.weight`; `head.weight` does not.
    """
    if wanted.head and name.startswith(wanted.head):
        return False
    tops = {other.partition(".")[0] for other in wanted.tensors}
    series = {top.rstrip(digits) for top in tops if top.endswith(tuple(digits))}
    top = name.partition(".")[0]
    return not tops or top in tops or (top.endswith(tuple(digits)) and top.rstrip(digits) in series)


def misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What keeps a file's tensors from being a network's: names that only one has, shapes and types that differ."""
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
    """Whether a tensor has a number for each place of another; one of quantised integers has none for floats."""
    is_dense = found.layout is torch.strided and not found.is_meta
    return is_dense and (found.is_floating_point() or not expected.is_floating_point())


def _kind(tensor: Tensor) -> str:
    layout = "" if tensor.layout is torch.strided else f"{tensor.layout} "
    return f"{'empty ' if tensor.is_meta else ''}{layout}{tensor.dtype}".replace("torch.", "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
