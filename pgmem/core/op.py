"""Describe one statement to execute: its name, its parameters, how to read its rows.

The `ops` module of a capability checks the caller's input and returns an `Op`. It does no I/O.
`pgmem.core.execution` chooses the connection, executes the op and handles a lost connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")

Row = tuple[Any, ...]


class Retry(Enum):
    """The effect of a second execution if the first one may have taken effect.

    It decides whether pgmem repeats a statement by itself after a lost connection.
    """

    READ = "reads again"
    IDEMPOTENT = "changes nothing more and gives the same answer"
    CONDITIONAL = "changes nothing more, but may answer with a conflict that the first one caused"
    UNSAFE = "may take effect twice"


class Op(NamedTuple, Generic[T]):
    """One statement to execute. A named tuple, because each call makes one.

    Attributes:
        statement: the name of its file; see `pgmem.core.statements`.
        params: its parameters.
        parse: turn the rows into the result, or raise a typed error.
        action: what the caller asked for, for messages. It holds no payload.
        retry: what a second execution does.
        fragments: pieces of the statement, chosen from fixed texts.
        fallback: return the op to execute after this one lost a race (False) or its answer was
            lost (True). For a statement that covers only the usual case, or that relies on rows
            which a crash of the server may have undone.
        async_commit: commit without waiting for the WAL flush, to release a contended row lock
            early. If the statement returns more than one row, a second statement waits for the
            flush before the caller gets its answer.
        merge: return one op that does what several of this kind do, and whose result is the rows of
            each. For a short statement that waits for no lock, so that concurrent calls of a
            process can share a round trip, a transaction and its WAL flush.
        bounded: False for a statement that may take longer than the memory's `timeout`, because it
            works on much data.
    """

    statement: str
    params: dict[str, Any]
    parse: Callable[[Sequence[Row]], T]
    action: str
    retry: Retry = Retry.READ
    fragments: tuple[tuple[str, str], ...] = ()
    fallback: Callable[[bool], Op[T]] | None = None
    async_commit: bool = False
    merge: Merge | None = None
    bounded: bool = True


Merge = Callable[[Sequence[Op[Any]]], Op[list[Sequence[Row]]]]
"""Make one op of several; see `Op.merge`."""


class RetryStatement(Exception):  # a signal, no error: the executor handles it
    """Another transaction decided while the statement ran: execute it again to see how."""


class RefusedError(Exception):
    """A statement has undone its transaction, because a condition does not hold."""
