"""Read back what a run has logged to Weights & Biases (offline) and to MLflow."""

import json
import struct
import time
from pathlib import Path
from typing import Any, NamedTuple

BLOCK, HEADER = 32768, 7
"""Of the log file of Weights & Biases, in bytes: a block, and the header of the file and of each record."""


class LoggedRun(NamedTuple):
    id: str
    name: str
    project: str
    group: str
    options: dict[str, Any]
    figures: dict[str, list[float]]
    pictures: set[str]


def _records(file: Path) -> Any:
    """Yield the records of a run's file, which has the format of LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole = file.read_bytes(), HEADER, b""
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + HEADER : place + HEADER + size]
        place += HEADER + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def _finished(file: Path) -> list[Any]:
    """Return the records of a run that has ended: another process writes them."""
    for _ in range(300):
        records = list(_records(file))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{file} has no end")


def wandb_runs(folder: Path) -> dict[str, LoggedRun]:
    """Return the runs below a folder by id; a run that was continued has several files."""
    runs: dict[str, LoggedRun] = {}
    for file in sorted(folder.rglob("offline-run-*/*.wandb")):
        records = _finished(file)
        (run,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
        logged = LoggedRun(run.run_id, run.display_name, run.project, run.run_group, {}, {}, set())
        logged = runs.setdefault(run.run_id, logged)
        for record in records:
            for item in record.config.update:
                logged.options[item.key] = json.loads(item.value_json)
            for item in record.history.item:
                name, *part = item.nested_key or [item.key]
                if part == ["filenames"]:
                    (picture,) = json.loads(item.value_json)
                    assert (file.parent / "files" / picture).stat().st_size > 1000
                    logged.pictures.add(name)
                elif not part:
                    logged.figures.setdefault(name, []).append(json.loads(item.value_json))
    return runs


def mlflow_runs(uri: str) -> dict[str, LoggedRun]:
    """Return the runs of a database by id."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    runs: dict[str, LoggedRun] = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            figures = {
                name: [metric.value for metric in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            }
            pictures = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
            assert run.info.status == "FINISHED"
            runs[run.info.run_id] = LoggedRun(
                run.info.run_id, run.info.run_name, experiment.name, "", run.data.params, figures, pictures
            )
    return runs
