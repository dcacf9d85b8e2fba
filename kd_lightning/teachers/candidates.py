"""Finding a network's tensors in the content of a file that anyone may have saved.

State dicts come under many keys (`model`, `state_dict`, `ema`, …) and their names with many prefixes (`module.`,
`student.backbone.`, …). None of those words is known here: every dict of tensors in the content is searched for the
network's own names, whatever stands before them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from string import digits
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from kd_lightning.weights_file import misfits

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


def candidates(network: nn.Module, content: Any) -> list[Candidate]:
    """Find what may be a network's weights in a file's content.

    Args:
        network: whose names and shapes they must have; its own values play no part.
        content: of the file, as `read_weights` gives it.

    Returns:
        All that fit. Where none does, the one that comes closest, with its problems. Empty where the content holds no
        dict of tensors.
    """
    expected = network.state_dict()
    norms = [name for name, module in network.named_modules() if isinstance(module, _NormBase)]
    counters = {f"{name}.{COUNTER}".lstrip(".") for name in norms} & expected.keys()
    found = [
        candidate
        for keys, tensors in _state_dicts(content)
        for candidate in _in_state_dict(keys, tensors, expected, counters)
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


def _in_state_dict(
    keys: tuple[str, ...], tensors: dict[str, Tensor], expected: dict[str, Tensor], counters: set[str]
) -> list[Candidate]:
    """All that fit in one state dict; else the one that comes closest."""
    closest: list[Candidate] = []
    for inner, spelled in _spellings(tensors, expected):
        counts = _prefixes(spelled, expected)
        enough = len(expected) - len(counters)
        likely = [prefix for prefix, count in counts.items() if count >= enough]
        tried = []
        for prefix in likely or [prefix for prefix, _ in counts.most_common(1)] or [""]:
            under = {name.removeprefix(prefix): own for name, own in spelled.items() if name.startswith(prefix)}
            weights, problems = _compare({name: tensors[own] for name, own in under.items()}, expected, counters)
            taken = {under[name] for name in weights if name in under}
            left_out = [name for name in tensors if name not in taken]
            tried.append(Candidate(keys, prefix, inner, weights, left_out, problems))
        if fitting := [candidate for candidate in tried if not candidate.problems]:
            return fitting
        closest += tried
    return sorted(closest, key=lambda candidate: len(candidate.problems))[:1]


def _spellings(tensors: dict[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, str]]]:
    """Ways to read the names of a state dict: what is left out within some of them, and each name by its spelling."""
    yield "", {name: name for name in tensors}
    bare = {".".join(part for part in name.split(".") if part not in WRAPPERS): name for name in tensors}
    within = sorted({part for name in tensors for part in name.split(".") if part in WRAPPERS})
    if len(bare) == len(tensors) and within:
        yield " and ".join(f"{part}." for part in within), bare
    counts = _prefixes(tensors, expected)
    for (short, some), (long, others) in product(counts.items(), repeat=2):
        if short != long and long.startswith(short) and some + others <= len(expected):
            spelled = {(short + name.removeprefix(long) if name.startswith(long) else name): name for name in tensors}
            if len(spelled) == len(tensors):
                yield long.removeprefix(short), spelled


def _prefixes(names: Iterable[str], expected: Mapping[str, Tensor]) -> Counter[str]:
    """What stands before the network's names, and how often."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in expected:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return counts


def _compare(
    found: dict[str, Tensor], expected: dict[str, Tensor], counters: set[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The network's weights among what is found under a prefix, and what keeps them from fitting."""
    weights = {name: found[name] for name in expected if name in found}
    if counters.isdisjoint(found):  # the file is older than they are; torch starts them at 0, too
        zeros = {name: torch.zeros_like(expected[name], device="cpu") for name in counters}
        weights, found = weights | zeros, found | zeros
    beside = {name for name in found if name not in expected and not _is_of_its_kind(name, expected)}
    return weights, misfits({name: tensor for name, tensor in found.items() if name not in beside}, expected)


def _is_of_its_kind(name: str, expected: Mapping[str, Tensor]) -> bool:
    """Whether a name that the network lacks tells of a larger network of its kind, not of a part beside it.

    `layer1.3.weight` and `linear3.weight` do, beside `layer1.2.weight` and `linear2.weight`; `head.weight` does not.
    """
    tops = {other.partition(".")[0] for other in expected}
    series = {top.rstrip(digits) for top in tops if top.endswith(tuple(digits))}
    top = name.partition(".")[0]
    return not tops or top in tops or (top.endswith(tuple(digits)) and top.rstrip(digits) in series)
