"""What the generator refuses, and how it says so.

What it is for: the checks of the async source that need its syntax tree, and the check of
the generated code, which trusts nothing that the conversion did.
What it may not do: change code.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

from sync_names import MERGEABLE, hint, is_forbidden, rename


@dataclass(frozen=True, order=True)
class Problem:
    """Something that cannot be turned, and where."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{place}: {self.message}"


class RefusedError(Exception):
    """The source holds what the generator cannot turn; nothing was written."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in sorted(set(problems))))
        self.problems = problems


def find_leftovers(source: str, path: str) -> list[Problem]:
    """Look for anything asynchronous in generated source, comments and strings exempt."""
    try:
        compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        return [Problem(path, error.lineno or 1, f"generated invalid Python: {error.msg}")]
    return [
        Problem(path, token.start[0], f"{token.string!r} is left over: {hint(token.string)}")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.NAME and is_forbidden(token.string)
    ]


def find_collisions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Two names of the source that would be one name in the sync tree."""
    lines: dict[str, int] = {}
    for node in ast.walk(tree):
        for name in _names_of(node):
            lines.setdefault(name, getattr(node, "lineno", 1))
    by_target: dict[str, list[str]] = {}
    for name in sorted(lines):
        by_target.setdefault(rename(name), []).append(name)
    for target, names in by_target.items():
        if len(names) > 1 and target not in MERGEABLE:
            both = " and ".join(repr(name) for name in names)
            yield max(lines[name] for name in names), f"{both} would both become {target!r}"


def _names_of(node: ast.AST) -> list[str]:
    """The names that a node binds or reads by themselves (attributes are no such names)."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.alias):
        return [node.asname or node.name.split(".")[0]]
    return []


def find_formatted(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Code inside f-strings that would have to be turned (before Python 3.12: no tokens)."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        for inner in ast.walk(node):
            name = getattr(inner, "attr", getattr(inner, "id", ""))
            asynchronous = isinstance(inner, ast.Await) or bool(getattr(inner, "is_async", False))
            if asynchronous or rename(name) != name or is_forbidden(name):
                what = "await" if asynchronous else repr(name)
                yield node.lineno, f"{what} inside an f-string: give the value a name before it"
