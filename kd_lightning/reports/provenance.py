"""How a stage was measured, as the report tells it."""

import json
import shlex
from typing import Any, NamedTuple

import yaml

from kd_lightning.reports.runs import Group

LONGEST_CONFIG = 100_000
"""Characters, as JSON, of a config that is shown: a longer one takes seconds to write as YAML."""


class Origin(NamedTuple):
    """How a stage was measured: of its first run what all its runs have, and a line a run."""

    name: str
    facts: dict[str, str]
    runs: list[dict[str, str]]
    config: str


def origin_of(group: Group) -> Origin:
    """How a group of runs was measured.

    Raises:
        One of `DAMAGED`: results that are not of their schema.
    """
    first = group.runs[0].results
    network, fit, data = first["network"], first["fit"], first.get("data") or {}
    facts: dict[str, Any] = {
        "network": network.get("name"),
        "epochs": fit.get("epochs"),
        "steps": fit.get("steps"),
        "device": first.get("device"),
        "devices": first.get("devices"),
        "CPU threads": first.get("threads"),
        "commit": first.get("commit"),
        "training data": data.get("train"),
        "test data": data.get("test"),
        **{f"machine: {name}": value for name, value in (first.get("machine") or {}).items()},
        **(first.get("versions") or {}),
    }
    runs = [
        {
            "run": str(run.folder),
            "seed": "" if run.seed is None else str(run.seed),
            "label": str(run.results.get("label") or ""),
            "command": shlex.join(["kd-lightning", *map(str, run.results.get("command") or ())]),
        }
        for run in group.runs
    ]
    config = first.get("config")
    return Origin(
        name=group.name,
        facts={name: str(value) for name, value in facts.items() if value not in (None, "")},
        runs=runs,
        config=_shown(config) if config else "",
    )


def _shown(config: Any) -> str:
    length = len(json.dumps(config))
    if length > LONGEST_CONFIG:
        return f"(of {length:,} characters, at most {LONGEST_CONFIG:,} are shown; see the run's config.yaml)"
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
