"""Configure Sphinx: `pip install -e ".[docs]" && sphinx-build -W -n docs build/docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from recipe_pages import write_pages

import kd_lightning

project = "kd_lightning"
copyright = "the authors of kd_lightning"
version = release = kd_lightning.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

default_role = "literal"  # docstrings write code as `code`
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_use_ivar = True
# Types of other packages, whose documentation is not fetched, and types of ours that are not in the reference.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|torchvision|nn|lightning|collections|pathlib|typing|numpy|jsonargparse)\..*"),
    ("py:.*", r"kd_lightning\.\w+\.\w+\..*"),
    ("py:.*", r"(Tensor|Batch|ViewFamily|FeatureMatch|optional|\w+Callable)"),
]

html_theme = "furo"
html_title = "kd_lightning"
exclude_patterns = ["_build"]

write_pages(Path(__file__).parents[1], Path(__file__).parent / "recipes")
