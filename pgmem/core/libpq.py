"""Execute statements on psycopg's libpq wrapper, without psycopg's cursors.

A cursor converts the query, looks for a prepared statement and drives three generators for every
call. That costs more client time than the server needs for a short statement. Here each statement
is converted once for the process and prepared once a connection; one call sends it, waits and reads
the rows::

    compile_statement ──► prepare (second use on a connection) ──► send ──► wait ──► rows
      %(name)s -> $1        named `pgmem_N`; or unnamed,
                            if a pooler stands between

psycopg's adapters dump the parameters and load the rows, so values are the same as a cursor's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import psycopg
from psycopg import errors
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.generators import execute
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

from pgmem.core.op import Row

_PLACEHOLDER = re.compile(rb"%(?:\((\w+)\)([sbt])|%)")
KEPT_ROWS = 200
_GOOD = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


class Statement(NamedTuple):
    """A statement in the server's own form.

    Attributes:
        query: the text with `$1`, `$2` … as placeholders.
        names: the parameter of each placeholder, in order.
        formats: how each is sent: as text, as binary, or as its type is sent best.
    """

    query: bytes
    names: tuple[str, ...]
    formats: tuple[PyFormat, ...]


@cache
def compile_statement(query: bytes) -> Statement:
    """Convert psycopg's named placeholders to numbered ones."""
    formats: dict[bytes, PyFormat] = {}
    numbers: dict[bytes, bytes] = {}

    def number(found: re.Match[bytes]) -> bytes:
        name, letter = found.groups()
        if name is None:
            return b"%"
        formats.setdefault(name, PyFormat(letter.decode()))
        return numbers.setdefault(name, b"$%d" % (len(numbers) + 1))

    text = _PLACEHOLDER.sub(number, query)
    return Statement(text, tuple(name.decode() for name in formats), tuple(formats.values()))


class _Sent(NamedTuple):
    """A statement with its parameters as they travel, in the order of libpq's arguments."""

    query: bytes
    values: Sequence[Buffer | None]
    types: tuple[int, ...]
    formats: Sequence[Format]


class Session:
    """The prepared statements of one connection.

    Args:
        connection: a psycopg connection of either form.
        prepare: prepare statements; False if a pooler stands between that cannot keep them.
    """

    def __init__(self, connection: psycopg.BaseConnection[Any], *, prepare: bool) -> None:
        self._pgconn = connection.pgconn
        self._encoding = connection.info.encoding
        self._transformer = Transformer(connection)
        self._prepare = prepare
        self._seen: set[bytes] = set()
        self._prepared: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        self._last = 0

    def forget_prepared(self) -> None:
        """Prepare every statement again, as the server's are about to be deallocated."""
        self._prepared.clear()

    def execute(self, query: bytes, params: dict[str, Any]) -> PQGen[Sequence[Row]]:
        """Execute one statement; a generator for the connection's `wait`, which gives its rows.

        Raises:
            psycopg.Error: the server refused the statement, or the connection was lost.
        """
        statement = compile_statement(query)
        transformer = self._transformer
        values = [params[name] for name in statement.names]
        sent = _Sent(
            statement.query,
            transformer.dump_sequence(values, statement.formats),
            transformer.types or (),
            transformer.formats or (),
        )
        if self._prepare and query in self._seen:
            result = yield from self._execute_prepared(sent)
        else:
            # The first time, too: a statement that is used once costs one round trip.
            self._seen.add(query)
            self._pgconn.send_query_params(*sent)
            result = yield from self._result()
        if not result.ntuples:
            return []
        transformer.set_pgresult(result)
        rows: Sequence[Row] = transformer.load_rows(0, result.ntuples, tuple)
        if len(rows) > KEPT_ROWS:
            transformer.set_pgresult(None)  # It keeps its last result in memory.
        return rows

    def _execute_prepared(self, sent: _Sent) -> PQGen[PGresult]:
        key = sent.query, sent.types
        for _ in range(2):
            name = self._prepared.get(key)
            if name is None:
                self._last += 1
                name = b"pgmem_%d" % self._last
                self._pgconn.send_prepare(name, *key)
                yield from self._result()
                self._prepared[key] = name
            self._pgconn.send_query_prepared(name, sent.values, sent.formats)
            try:
                result = yield from self._result()
            except errors.InvalidSqlStatementName:
                # The user of `tx.connection` deallocated all of them.
                self.forget_prepared()
                missing = name
            else:
                return result
        raise errors.InvalidSqlStatementName(f"{missing!r} went away twice")

    def _result(self) -> PQGen[PGresult]:
        """Wait for the answer to what was sent; raise what the server refused."""
        results: list[PGresult] = yield from execute(self._pgconn)
        for result in results:
            if result.status not in _GOOD:
                raise errors.error_from_result(result, self._encoding)
        return results[-1]
