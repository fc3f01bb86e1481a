"""Sphinx configuration: `sphinx-build -W --keep-going -b html docs build/docs`.

Everything is built from the checkout and viewed from its own files. No fonts, scripts or
inventories come from a network. The API reference is made from the docstrings of public names.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

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
autodoc_default_options = {"members": True}
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


def hide_internal_constructor(  # noqa: PLR0917 - Sphinx passes them by place
    app: Sphinx, what: str, name: str, cls: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str, None] | None:
    """Show no arguments of a class that users get from a memory and do not make."""
    made_by_memory = what == "class" and name in api_pages.MADE_BY_MEMORY
    return ("", None) if made_by_memory else None


def setup(app: Sphinx) -> None:
    """Write the API and command line pages before Sphinx reads its sources."""
    app.connect("builder-inited", lambda app: api_pages.write(HERE / "reference" / "api", pgmem))
    app.connect("autodoc-process-signature", hide_internal_constructor)
    app.connect("builder-inited", lambda app: cli_pages.write(HERE / "reference" / "cli.md"))
