"""Qualify the functions, types and collations of a statement with pg_catalog.

An unqualified function is looked up in every schema of the search_path. A role that may create
functions in one of them could add an overload that fits better than the server's own function, and
the statement would run it with the rights of the application. So statements are sent qualified::

    clock_timestamp() + make_interval(secs => $1)::text
    pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $1)::pg_catalog.text

So are operators for JSON, arrays and texts. Comparisons and arithmetic stay as they are, because
`OPERATOR(pg_catalog.=)` has another precedence than `=`. The server takes its own operator if it
has one for exactly the types of both operands, and `tests/integration/admin/test_search_path.py`
checks with hostile operators that it has one in every statement.
"""

from __future__ import annotations

import re

_QUOTED = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*")""")
_NAME = re.compile(
    r"""(?<![\w."])(?P<function>[a-z_][a-z0-9_]*)\(|::(?P<type>[a-z_][a-z0-9_]*)\b(?![."])"""
)
_COLLATION = re.compile(r'\bCOLLATE "C"')
_OPERATOR = re.compile(r" ?(->>|->|@>|\|\|) ?")
_INDENTATION = re.compile(r"\n +")
_NOT_EMPTY = re.compile(r"<>(?= '\{)")

_SYNTAX = frozenset({"coalesce", "extract", "greatest", "least", "nullif"})
"""Parts of the grammar that look like functions."""
_KEYWORD_TYPES = frozenset({
    "bigint", "bit", "boolean", "char", "character", "decimal", "double", "float", "int", "integer",
    "interval", "numeric", "real", "smallint", "time", "timestamp", "varchar",
})  # fmt: skip
"""Types of the grammar: the parser qualifies them."""


def qualify(text: str) -> str:
    """Return a statement with its functions, types and collations qualified.

    Args:
        text: the statement, without comments. A name in front of a parenthesis that is no function
            is separated from it by a space.
    """
    text = _COLLATION.sub('COLLATE pg_catalog."C"', text)
    text = _INDENTATION.sub("\n", text)  # It would be a fifth of the bytes that are sent.
    text = _NOT_EMPTY.sub("OPERATOR(pg_catalog.<>)", text)
    # Every second part is quoted.
    return "".join(
        part
        if place % 2
        else _OPERATOR.sub(r" OPERATOR(pg_catalog.\1) ", _NAME.sub(_qualified, part))
        for place, part in enumerate(_QUOTED.split(text))
    )


def _qualified(found: re.Match[str]) -> str:
    function, kind = found["function"], found["type"]
    if kind is not None:
        return found[0] if kind in _KEYWORD_TYPES else f"::pg_catalog.{kind}"
    if function in _SYNTAX or (function == "unnest" and _has_several(found.string[found.end() :])):
        return found[0]
    return f"pg_catalog.{found[0]}"


def _has_several(text: str) -> bool:
    """Return True if an argument list has several arguments.

    `unnest` of several arrays is a part of the grammar, under this name only.
    """
    depth = 0
    for character in text:
        if character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        if depth < 0 or (character == "," and depth == 0):
            return character == ","
    return False
