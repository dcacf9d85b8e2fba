"""The public names of `from kd_lightning import …`."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import kd_lightning

PACKAGE = Path(kd_lightning.__file__).parent


def test_importing_the_package_does_not_import_torch():
    program = "import sys, kd_lightning; dir(kd_lightning); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("home", kd_lightning.HOMES)
def test_every_name_is_that_of_its_module(home):
    module = import_module(f"kd_lightning.{home}")
    for name in kd_lightning.HOMES[home]:
        assert getattr(kd_lightning, name) is getattr(module, name)
        assert name in kd_lightning.__all__
        assert name in dir(kd_lightning)


@pytest.mark.parametrize("home", ["callbacks", "data", "losses", "models", "modules"])
def test_public_names_of_a_package_are_public_at_the_top(home):
    assert sorted(kd_lightning.HOMES[home]) == sorted(import_module(f"kd_lightning.{home}").__all__)


def test_the_stub_has_the_same_names():
    module = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in module.body if isinstance(node, ast.If))
    assert block.test.id == "TYPE_CHECKING"
    read = {}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            home, names = node.module.removeprefix("kd_lightning."), tuple(alias.name for alias in node.names)
            names = tuple(import_module(node.module).__all__) if names == ("*",) else names
            read[home] = (*read.get(home, ()), *names)
    assert {home: sorted(names) for home, names in read.items()} == {
        home: sorted(names) for home, names in kd_lightning.HOMES.items()
    }
    assert (PACKAGE / "py.typed").is_file()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'DistilModule'"):
        _ = kd_lightning.DistilModule
    with pytest.raises(ImportError, match="cannot import name 'DistilModule'"):
        exec("from kd_lightning import DistilModule")
