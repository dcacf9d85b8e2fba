"""Commands, data, versions and config of each stage, for the report."""

import json
import shlex
from typing import Any, NamedTuple

import yaml

from kd_lightning.reports.runs import Group

MAX_CONFIG_LENGTH = 100_000
"""Longest config in the report, in characters of JSON: a longer one takes seconds to write as YAML."""


class Provenance(NamedTuple):
    """Provenance of a group: what its runs share, and a line for each run."""

    name: str
    facts: dict[str, str]
    runs: list[dict[str, str]]
    config: str


def provenance_of(group: Group) -> Provenance:
    """Return the provenance of a group.

    Raises:
        One of `DAMAGED`: results that do not follow their schema.
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
    return Provenance(
        name=group.name,
        facts={name: str(value) for name, value in facts.items() if value not in (None, "")},
        runs=runs,
        config=_shown(config) if config else "",
    )


def _shown(config: Any) -> str:
    length = len(json.dumps(config))
    if length > MAX_CONFIG_LENGTH:
        return f"(of {length:,} characters, at most {MAX_CONFIG_LENGTH:,} are shown; see the run's config.yaml)"
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
