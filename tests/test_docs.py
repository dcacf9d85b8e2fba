"""Compare the documentation with the source."""

import ast
import json
import re
from pathlib import Path

import pytest

import kd_lightning
from kd_lightning.cli import lightning
from kd_lightning.recipe import find_recipe
from kd_lightning.reports.column import mean_and_spread
from tests.pages import NOT_MEASURED, recipe_pages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
MESSAGES = re.findall(r"^`(.+)`\n: ", (DOCS / "troubleshooting.md").read_text(), re.M)
FROM_JSONARGPARSE = ("'…' is not accepted",)
MIN_PART = 4
"""Shorter fixed parts of a message are not compared."""


def texts(file):
    """Yield every string in a source file; `…` replaces the expressions of f-strings, except the file's constants."""
    tree = ast.parse(file.read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)]
    constants = {node.targets[0].id: node.value.value for node in assigned}

    def shown(part):
        if isinstance(part, ast.Constant):
            return part.value
        return str(constants.get(part.value.id, "…")) if isinstance(part.value, ast.Name) else "…"

    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(map(shown, node.values))


SOURCE = [text for file in Path(kd_lightning.__file__).parent.rglob("*.py") for text in texts(file)]


def is_in_source(message):
    """Tell whether one string of the source has all fixed parts of a message, in order."""
    parts = [part.strip(" ()") for part in message.split("…")]
    parts = [part for part in parts if len(part) >= MIN_PART]
    pattern = re.compile(".*".join(re.escape(part) for part in parts), re.S)
    return bool(parts) and any(pattern.search(text) for text in SOURCE)


def test_troubleshooting_covers_the_likely_messages():
    assert len(MESSAGES) == len(set(MESSAGES)) >= 25


@pytest.mark.parametrize("message", [message for message in MESSAGES if message not in FROM_JSONARGPARSE])
def test_every_message_of_troubleshooting_is_in_the_source(message):
    assert is_in_source(message)


def test_a_message_that_is_not_in_the_source_is_found():
    assert not is_in_source("temperature: … found, a number below 0 expected")
    assert not is_in_source("…: …")


@pytest.mark.parametrize("name", sorted(file.parent.name for file in ROOT.glob("configs/*/recipe.yaml")))
def test_every_recipe_has_a_page_with_its_stages_and_figures(name):
    recipe = find_recipe(name, ROOT / "configs")
    file = ROOT / "lightning_logs" / "measured" / f"{name}.json"
    assert file.is_file() != (name in NOT_MEASURED)
    measured = json.loads(file.read_text()) if file.is_file() else {"rows": [], "metric": "", "command": ""}
    page = recipe_pages.page(recipe, measured if file.is_file() else None)
    assert all(f"### `{stage}`" in page for stage in recipe.stages)
    for row in measured["rows"]:
        figure = mean_and_spread(row["figures"], 2 if measured["metric"] == "accuracy" else 1)
        figure = figure.replace(" ", "\N{NO-BREAK SPACE}")
        assert f"| `{row['name']}` | {row['published'] or '-'} | **{figure}** | {len(row['figures'])} |" in page
    assert measured["command"] in page


def test_pages_of_removed_recipes_are_removed(tmp_path):
    (tmp_path / "gone.md").write_text("# gone")
    recipe_pages.write_pages(ROOT, tmp_path)
    assert not (tmp_path / "gone.md").exists()
    assert (tmp_path / "digits.md").is_file()


def test_the_index_has_the_readme_s_python():
    shown = [README, (DOCS / "index.md").read_text()]
    first, second = (re.search(r"```python\n(from lightning.*?)```", text, re.S)[1] for text in shown)
    assert first == second


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_within_the_repository_exist(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


@pytest.mark.parametrize(
    ("recipe", "stage"),
    [
        ("mnist_transfer", "distill"),
        ("mnist_hinton", "distill_published"),
        ("cifar10_tutorial", "distill"),
        ("cifar10_vgg", "distill_published"),
        ("cifar10_densenet", "distill"),
        ("dogs_vs_cats", "distill"),
    ],
)
def test_equivalent_weights_are_those_of_the_configs(recipe, stage):
    page = (DOCS / "distillation.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{recipe}`")]
    config = lightning.parse(["fit", f"--config={ROOT / 'configs' / recipe / stage}.yaml"])["model"]["init_args"]
    for option, cell in zip(("temperature", "hard_weight", "soft_weight"), row.strip("|").split("|")[2:], strict=True):
        above, _, below = cell.rpartition("=")[2].partition("/")
        assert config[option] == pytest.approx(float(above) / float(below or 1))


def test_moved_modules_are_where_the_changelog_says():
    package = Path(kd_lightning.__file__).parent
    table = re.findall(r"^\| (`.*) \| (`.*) \|$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert len(table) > 10
    for old, new in table:
        for names, there in ((old, False), (new, True)):
            for name in re.findall(r"`([\w.]+)`", names):
                module = package / name.replace(".", "/")
                assert ((module / "__init__.py").is_file() or module.with_suffix(".py").is_file()) == there, name


def test_the_reference_has_every_public_name():
    page = (DOCS / "api.md").read_text()
    assert [name for name in kd_lightning.__all__ if not re.search(rf"\.{name}$", page, re.M)] == []
