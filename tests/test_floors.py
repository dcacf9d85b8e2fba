"""A file imports only from floors below its own, and from its own package."""

import ast
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import kd_lightning

PACKAGE = Path(kd_lightning.__file__).parent

FLOOR = {
    "__init__": 0,
    "errors": 0,
    "batch": 1,
    "stage": 1,
    "schedules": 1,
    "utils": 1,
    "recipe": 2,
    "losses": 3,
    "data": 3,
    "reports": 3,
    "checkpoints": 4,
    "models": 5,
    "teachers": 5,
    "callbacks": 5,
    "modules": 6,
    "export": 6,
    "cli": 7,
    "commands": 8,
    "__main__": 9,
}

JOINED_BY_YAML = {"modules": {"data", "models", "callbacks"}, "callbacks": {"data"}, "models": {"data"}}
"""What lies below and yet is never imported: data and networks are joined to the modules by YAML."""

FILES = sorted(PACKAGE.rglob("*.py"))

IMPORTING = [file for file in FILES if file != PACKAGE / "__init__.py"]
"""The package itself offers names of all floors, each imported on first use: see tests/test_names.py."""


def unit(file: Path) -> str:
    """The file's place in the house: a package, or a module at the top."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_units(source: str, package: str) -> set[str]:
    """What a source imports of ours, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    parts = [name.split(".") for name in names if name.split(".")[0] == "kd_lightning"]
    return {_unit_of(part[1]) if len(part) > 1 else "__init__" for part in parts}


def _unit_of(name: str) -> str:
    """Where what `from kd_lightning import name` gives comes from, be it looked up when asked for."""
    if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file():
        return name
    homes = [home for home, names in kd_lightning.HOMES.items() if name in names]
    return homes[0] if homes else "__init__"  # which defines the version itself


def broken(importer: str, imported: str) -> bool:
    if importer == imported:
        return False
    return FLOOR[imported] >= FLOOR[importer] or imported in JOINED_BY_YAML.get(importer, ())


def test_every_file_has_a_floor_and_every_floor_its_files() -> None:
    assert {unit(file) for file in FILES} == set(FLOOR)


@pytest.mark.parametrize("file", IMPORTING, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_lead_downward_only(file: Path) -> None:
    package = ".".join(("kd_lightning", *file.relative_to(PACKAGE).parts[:-1]))
    imported = imported_units(file.read_text(encoding="utf-8"), package)
    assert [name for name in imported if broken(unit(file), name)] == []


def imported_files(file: Path) -> set[Path]:
    """Return the files of the package that a file imports, also inside functions and for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            path = PACKAGE.parent.joinpath(*name.split("."))
            module, package = path.with_suffix(".py"), path / "__init__.py"
            candidates = (module, package, path.parent.with_suffix(".py"), path.parent / "__init__.py")
            found.add(next((each for each in candidates if each in FILES), file))
    return found - {file}


def test_no_files_import_each_other_in_a_circle() -> None:
    """`TopologicalSorter` raises `CycleError`, which names the circle."""
    TopologicalSorter({file: imported_files(file) for file in IMPORTING}).prepare()


@pytest.mark.parametrize(
    ("source", "units"),
    [
        ("import kd_lightning.data.module as b", {"data"}),
        ("from kd_lightning import cli, __version__", {"cli", "__init__"}),
        ("from kd_lightning import DistillModule, MLP", {"modules", "models"}),
        ("def f():\n    if 1:\n        from kd_lightning.commands.compare import collect", {"commands"}),
        ("from ..data import views\nfrom .soft import x", {"data", "losses"}),
        ("import torch\nfrom kd_lightning_extras.data import views", set()),
    ],
)
def test_the_search_for_imports_finds_each_kind(source: str, units: set[str]) -> None:
    assert imported_units(source, "kd_lightning.losses") == units


def test_the_rule_forbids_upward_sideways_and_yaml_joined_imports() -> None:
    forbidden = [("losses", "modules"), ("models", "data"), ("modules", "callbacks"), ("callbacks", "data")]
    assert all(broken(importer, imported) for importer, imported in [*forbidden, ("modules", "models")])
    assert not any(broken(*pair) for pair in [("data", "data"), ("modules", "losses"), ("commands", "data")])
