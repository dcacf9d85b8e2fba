"""The scripts of `docs/`, which are in no package."""

import importlib.util
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[1] / "docs"

NOT_MEASURED = {"cifar100", "losses_cifar10", "losses_mnist", "mnist_chains"}
"""Recipes whose figures are not in `lightning_logs/measured` yet: their pages and the README have none."""


def load(name: str) -> ModuleType:
    """Import `docs/<name>.py`."""
    spec = importlib.util.spec_from_file_location(Path(name).name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe_pages = load("recipe_pages")
result_tables = load("result_tables")
make_differences = load("pictures/make_differences")
make_distillation = load("pictures/make_distillation")
