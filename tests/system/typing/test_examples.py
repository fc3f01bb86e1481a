"""The examples in README, docs and docstrings pass mypy --strict and pyright.

Each page becomes one module, and so does each docstring: its blocks are the body of one async
function, on the same lines as in the page. One run of each checker covers all of them. Needs the
extra `dev`, so a plain `pytest` leaves this folder out.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pgmem
from tests.integration.docs import examples

_PRELUDE = "from pathlib import Path; import psycopg; import pgmem; from {module} import *"
_PRELUDE += "; from pgmem import *  # pyright: ignore  # Both may import a Final name."
_SIGNATURE = "async def page(url: str, memory: pgmem.{form}, folder: Path) -> None:"

_CONFIG = {
    "include": ["."],
    "pythonVersion": "3.11",
    "typeCheckingMode": "standard",
    # Written for readers: a bare expression shows its value, and a name may be used again.
    "reportUnusedExpression": "none",
    "reportRedeclaration": "none",
    "reportWildcardImportFromLibrary": "none",
}


def module_of(blocks: list[examples.Block], form: str, module: str = "pgmem") -> str:
    """Return a module whose lines are those of the blocks, in a function."""
    lines = [_PRELUDE.format(module=module), _SIGNATURE.format(form=form)]
    for block in blocks:
        lines += [""] * (block.line - 1 - len(lines))
        found = doctest.DocTestParser().get_examples(block.source)
        if not found:
            lines += block.source.splitlines()
        for example in found:
            lines += [""] * (block.line - 1 + example.lineno - len(lines))
            lines += example.source.splitlines()
    body = [f"    {line}" if line and n > 1 else line for n, line in enumerate(lines)]
    return "\n".join([*body, "    pass", ""])


def page_modules() -> dict[str, str]:
    """Return a module for each page, by the page's path."""
    found = {}
    for page in examples.pages():
        text = page.read_text(encoding="utf-8")
        blocks = [block for block in examples.blocks(text) if block.run and not block.output]
        name = page.relative_to(examples.CHECKOUT).as_posix()
        for block in blocks:
            if block.file is not None:
                above = found.get(f"{name} {block.file}", "")
                gap = "\n" * (block.line - 1 - above.count("\n"))
                found[f"{name} {block.file}"] = above + gap + block.source
        if blocks:
            found[name] = module_of([b for b in blocks if b.file is None], "Memory")
    return found


def docstring_modules() -> dict[str, str]:
    """Return a module for each docstring with examples, without the generated twins."""
    found = {}
    for name, test in examples.docstrings().items():
        if not name.startswith("pgmem._sync."):
            source = "".join(f">>> {_continued(e.source)}" for e in test.examples)
            form = "AsyncMemory" if examples.is_async(test) else "Memory"
            block = examples.Block(source, 3, True)
            found[name] = module_of([block], form, test.globs["__name__"])
    return found


def _continued(source: str) -> str:
    return source.rstrip("\n").replace("\n", "\n... ") + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with all modules, and the checkers' configuration."""
    folder = tmp_path_factory.mktemp("examples")
    for name, source in {**page_modules(), **docstring_modules()}.items():
        module = "example_" + re.sub(r"\W", "_", name)
        (folder / f"{module}.py").write_text(source, encoding="utf-8")
    configure(folder)
    return folder


def configure(folder: Path) -> None:
    """Write pyright's configuration, with this environment's packages."""
    place = {
        "venvPath": str(Path(sys.prefix).parent),
        "venv": Path(sys.prefix).name,
        "extraPaths": [str(Path(pgmem.__file__).parents[1])],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps({**_CONFIG, **place}), encoding="utf-8")


def _complaints(folder: Path, *command: str) -> list[str]:
    root = str(Path(pgmem.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "MYPYPATH": root, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in {0, 1}, run.stdout + run.stderr
    return [line for line in run.stdout.splitlines() if re.search(r":\d+(?::| -) error", line)]


def test_mypy_accepts_every_example(folder):
    cache = examples.CHECKOUT / ".mypy_cache" / "examples"
    found = _complaints(
        folder,
        *("mypy", "--strict", "--python-version", "3.11", "--cache-dir", str(cache)),
        *("--allow-redefinition", "--disable-error-code=no-redef", "--follow-imports=silent", "."),
    )
    assert not found, "\n".join(found)


def test_pyright_accepts_every_example(folder):
    found = _complaints(folder, "pyright", "--project", str(folder))
    assert not found, "\n".join(found)


def test_an_error_is_found_on_its_line(tmp_path):
    text = "# Page\n\n```python\n>>> memory.state.put('k', 1, no_such_option=2)\n```\n"
    source = module_of(examples.blocks(text), "Memory")
    (tmp_path / "page.py").write_text(source, encoding="utf-8")
    configure(tmp_path)
    (complaint,) = _complaints(tmp_path, "pyright", "--project", str(tmp_path))
    assert "page.py:4:" in complaint
    assert "no_such_option" in complaint
