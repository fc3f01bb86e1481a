"""Sphinx configuration: `sphinx-build -W --keep-going -b html docs build/docs`.

Everything is built from the checkout and viewed from its own files. No fonts, scripts or
inventories come from a network. The API reference is made from the docstrings of public names.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import api_pages  # noqa: E402
import cli_pages  # noqa: E402

import pgmem  # noqa: E402

project = "pgmem"
author = "the pgmem authors"
html_title = "pgmem"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Docstrings are written with Markdown's single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
# `type[...]` in an annotation is the builtin, although some models have a field of that name.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"


def setup(app: Sphinx) -> None:
    """Write the API and command line pages before Sphinx reads its sources."""
    app.connect("builder-inited", lambda app: api_pages.write(HERE / "reference" / "api", pgmem))
    app.connect("builder-inited", lambda app: cli_pages.write(HERE / "reference" / "cli.md"))
