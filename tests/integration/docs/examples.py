"""Find the examples in pages and docstrings, and run them as a reader would.

A page (a Markdown file) is one program: its ```python blocks run in order in one namespace, on a
database of their own. A block of `>>>` lines is compared with the results shown (`...` stands for
anything); any other block only has to run. Four directives are invisible to the reader:

    <!-- given                  Python that runs here and is not shown
    …
    -->
    <!-- not run: why -->       the next block is only compiled
    <!-- prints -->             the next block is what the block before it printed
    <!-- file: NAME -->         the next block is appended to NAME in `folder`, and not run

A docstring is a program of its own, and sees its module's names. Where an example shows no result,
none is compared. Everywhere `url` is the database and `memory` an open memory: an `AsyncMemory` in
a docstring whose examples await something, else a `Memory`. `async with` and `await` may stand at
the top level. tests/system/typing checks the types of the same examples.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
import re
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

import psycopg

import pgmem

CHECKOUT = Path(__file__).parents[3]

_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_PIECES = re.compile(
    r"^<!-- given\n(?P<given>.*?)^-->"
    r"|^<!-- prints -->\n```text\n(?P<output>.*?)^```"
    r"|^(?:<!-- (?:not run: (?P<reason>[^\n]+)|file: (?P<file>[\w.]+)) -->\n+)?"
    r"```python\n(?P<code>.*?)^```",
    flags=re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A piece of Python in a page, or what the piece before it printed."""

    source: str
    line: int
    run: bool
    output: bool = False
    file: str | None = None


class Wrong(AssertionError):
    """An example does not do what its page says."""


REDIS_PAIRS = CHECKOUT / "docs" / "reference" / "redis"
"""The blocks of these pages are pairs, each for two servers. tests/system/redis runs them."""


def pages() -> list[Path]:
    """Return the pages of the documentation, README first, without the pairs for Redis."""
    docs = {*(CHECKOUT / "docs").rglob("*.md")} - {*REDIS_PAIRS.glob("*.md")}
    return [CHECKOUT / "README.md", *sorted(docs)]


def blocks(text: str) -> list[Block]:
    """Return the pieces of Python in a page, in order."""
    found = []
    for match in _PIECES.finditer(text):
        kind = next(kind for kind in ("given", "output", "code") if match[kind] is not None)
        line = text.count("\n", 0, match.start(kind)) + 1
        run = match["reason"] is None
        found.append(Block(match[kind], line, run, kind == "output", match["file"]))
    return found


def docstrings() -> dict[str, doctest.DocTest]:
    """Return every docstring of pgmem that has examples, by its name."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [pgmem, *map(importlib.import_module, _module_names())]
    tests = [test for module in modules for test in finder.find(module, module.__name__)]
    return {test.name: test for test in tests if test.examples}


def is_async(test: doctest.DocTest) -> bool:
    """Return True if the examples of a docstring await something."""
    return any(re.search(r"\b(?:await|async) ", e.source) for e in test.examples)


def _module_names() -> list[str]:
    found = pkgutil.walk_packages(pgmem.__path__, "pgmem.")
    return [
        module.name for module in found if not re.search(r"\.migrations\b|\.__main__$", module.name)
    ]


class Program:
    """Run pieces of Python one after the other in one namespace and one event loop."""

    def __init__(
        self, where: str, url: str, *, asynchronous: bool = False, names: dict | None = None
    ) -> None:
        self._where = where
        self._runner = asyncio.Runner()
        self._memory = pgmem.AsyncMemory(url) if asynchronous else pgmem.Memory(url)
        self._printed = ""
        self._folder = tempfile.TemporaryDirectory()
        self.names = {
            **(names or {}),
            "__name__": "__main__",
            "url": url,
            "memory": self._memory,
            "folder": Path(self._folder.name),
        }

    def __enter__(self) -> Program:
        self._finish(self._memory.open())
        return self

    def __exit__(self, *_) -> None:
        self._finish(self._memory.close())
        self._runner.close()
        self._folder.cleanup()

    def execute(self, block: Block) -> None:
        """Run a block of a page, compare it with what the last one printed, or save it."""
        if block.output:
            if self._printed != block.source:
                raise Wrong(f"{self._where}, line {block.line}\nprinted\n{self._printed}")
            return
        if block.file is not None:
            with (Path(self._folder.name) / block.file).open("a", encoding="utf-8") as file:
                file.write(block.source)
            return
        examples = doctest.DocTestParser().get_examples(block.source)
        for example in examples:
            self.compare(example, block.line)
        if not examples:
            padded = "\n" * (block.line - 1) + block.source
            with contextlib.redirect_stdout(io.StringIO()) as shown:
                self._run(compile_(padded, self._where, "exec"))
            self._printed = shown.getvalue()

    def compare(self, example: doctest.Example, line: int = 1) -> None:
        """Run an example and compare what it shows."""
        shown = io.StringIO()
        code = compile_(example.source, self._where, "single")
        raised = None
        hook, sys.displayhook = sys.displayhook, sys.__displayhook__
        try:
            with contextlib.redirect_stdout(shown):
                self._run(code)
        except Exception as error:  # Compared with the one that the example shows.
            if example.exc_msg is None:
                raise
            raised = "".join(traceback.format_exception_only(error))
        finally:
            sys.displayhook = hook
        want = example.want if example.exc_msg is None else example.exc_msg
        got = shown.getvalue() if raised is None else raised
        if want and not doctest.OutputChecker().check_output(want, got, _OPTIONS):
            place = f"{self._where}, line {line + example.lineno}"
            raise Wrong(f"{place}\n{example.source}shows\n{got}and is said to show\n{want}")

    def _run(self, code) -> None:
        self._finish(eval(code, self.names))

    def _finish(self, result) -> None:
        if inspect.iscoroutine(result):
            self._runner.run(result)


def compile_(source: str, where: str, mode: str):
    """Compile Python in which `await` may stand at the top level."""
    return compile(source, where, mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def make_tables(url: str) -> None:
    """Make the reader's own tables, which the docstrings' examples use."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE invoices (order_id bigint PRIMARY KEY)")
