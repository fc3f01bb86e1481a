"""What to run and how to read its rows: no connection, no clock, no waiting.

Each module has one verb group. Its functions check the input, and return an `Op`: a statement's
name, its parameters, and a function that turns the rows into what the user gets.
`pgmem.core.execution` runs an `Op`: it decides on which connection, and what to do when that
connection breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")

Row = tuple[Any, ...]


class Retry(Enum):
    """What a second run of the same statement does, if nobody knows whether the first took effect.

    Only this decides whether pgmem repeats a statement by itself after a lost connection.
    """

    READS = "reads again"
    HARMLESS = "changes nothing more and gives the same answer"
    GUARDED = "changes nothing more, but may answer with a conflict that is our own first run"
    HARMFUL = "may take effect twice"


class Op(NamedTuple, Generic[T]):
    """One statement to run. A named tuple, because one is made for every call.

    Attributes:
        statement: the name of its file in `pgmem.core.statements`.
        params: its parameters.
        parse: turns its rows into the result, or raises a typed error.
        action: what the caller asked for, in words, for messages; holds no payload.
        again: what a second run does.
        fragments: pieces of the statement chosen from fixed texts.
        instead: makes what to run in its place when it lost a race (False), or its answer was lost
            (True): because this one does only what is usual, or relies on what a crash of the
            server may have undone.
        lets_go: others wait for a row that it locks. It commits without waiting for the disk, so
            that they can go on, and if it gives more than its first row, that wait follows as a
            statement of its own, before anybody is told.
    """

    statement: str
    params: dict[str, Any]
    parse: Callable[[Sequence[Row]], T]
    action: str
    retry: Retry = Retry.READS
    fragments: tuple[tuple[str, str], ...] = ()
    fallback: Callable[[bool], Op[T]] | None = None
    async_commit: bool = False


class RetryStatement(Exception):  # no error: the caller runs the statement again
    """Another transaction decided while the statement ran, and it could not see how."""
