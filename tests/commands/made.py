"""Made runs: what a training and its test leave behind, without either."""

from pathlib import Path
from typing import Any

from kd_lightning.recipe import Recipe
from kd_lightning.reports.results import update_results
from kd_lightning.stage import Stage

HINTON_RULES = ("as_trained", "frequency", "test_optimal")


def made_recipe() -> Recipe:
    corrected = {"as_trained": "206 (133 on threes)", "test_optimal": "109 (14 on threes)"}
    stages = {
        "teacher": Stage("teacher", Path("teacher.yaml"), published=67),
        "distill_feature_map": Stage("distill_feature_map", Path("a.yaml"), "74 (best of 5 seeds)", teacher="teacher"),
        "distill_without_3": Stage("distill_without_3", Path("b.yaml"), corrected=corrected, teacher="teacher"),
    }
    return Recipe("made", stages, "Made", "nowhere", "errors", 2)


def write_run(runs: Path, stage: str, seed: int, **parts: Any) -> Path:
    """Write a run's results under `runs/made/<stage>/seed_<seed>`; a part that is None is left out."""
    parts = {
        "label": f"label_{stage}_{seed}",
        "fit": {"seconds": 1234.5, "epochs": 3, "steps": 30, "seed": seed},
        "test": {"errors": 80 + seed, "images": 10000},
        "network": {"name": "MLP", "parameters": 2_395_210, "mebibytes": 9.137},
        "versions": {"torch": "2.14.1"},
        "machine": {"system": "Linux", "processor": "a processor", "cores": 2},
        "device": "cpu",
        "settings": "the same",
        "command": ["reproduce", "made"],
        **parts,
    }
    folder = runs / "made" / stage / f"seed_{seed}"
    update_results(folder, **{name: part for name, part in parts.items() if part is not None})
    return folder
