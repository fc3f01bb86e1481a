"""Execute statements on psycopg's libpq wrapper, without psycopg's cursors.

A cursor converts the query, looks for a prepared statement and drives three generators for every
call. That costs more client time than the server needs for a short statement. Here each statement
is converted once for the process and prepared once a connection::

    compile_statement ──► send ──► `pgmem.core.connection` waits ──► collect ──► answers
      %(name)s -> $1        a lone statement, or a unit: several statements and one Sync

    unit 1:  Parse Bind Execute  Bind Execute  Sync ─┐  one implicit transaction: all or nothing
    unit 2:  Bind Execute  Sync ─────────────────────┴► both are sent before the first is answered

A statement is prepared, under the name `pgmem_N`, together with its second use on a connection. If
a pooler stands between that cannot keep it, it is sent unnamed each time. Rows travel in binary
form; see `pgmem.core.adapters`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

import psycopg
from psycopg import errors
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.generators import execute
from psycopg.pq import ConnStatus, ExecStatus, Format, PipelineStatus
from psycopg.pq.abc import PGresult

from pgmem.core.adapters import adaptation
from pgmem.core.op import Row

_PLACEHOLDER = re.compile(rb"%(?:\((\w+)\)([sbt])|%)")

_GOOD = (int(ExecStatus.TUPLES_OK), int(ExecStatus.COMMAND_OK))
_BAD = int(ConnStatus.BAD)
_NO_PIPELINE = int(PipelineStatus.OFF)
_SYNC = ExecStatus.PIPELINE_SYNC
_BINARY = Format.BINARY

Call = tuple[bytes, dict[str, Any] | None]
"""A statement with psycopg's named placeholders, and its parameters.

None for a statement that begins or ends a transaction or savepoint. It has no plan, and it must
also work after the user of `tx.connection` has deallocated every prepared statement.
"""

Answer = list[Sequence[Row]] | psycopg.Error
"""The rows of each statement of a unit, or the error that undid the unit."""


class Statement(NamedTuple):
    """A statement in the server's own form.

    Attributes:
        query: the text with `$1`, `$2` … as placeholders.
        names: the parameter of each placeholder, in order.
        formats: how each is sent: as text, as binary, or as its type is sent best.
        pick: take the parameters of the placeholders from all, in order.
    """

    query: bytes
    names: tuple[str, ...]
    formats: tuple[PyFormat, ...]
    pick: Callable[[dict[str, Any]], Sequence[Any]]


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
    names = tuple(name.decode() for name in formats)
    return Statement(text, names, tuple(formats.values()), _picker(names))


def _picker(names: tuple[str, ...]) -> Callable[[dict[str, Any]], Sequence[Any]]:
    if len(names) > 1:
        return itemgetter(*names)
    if not names:
        return lambda params: ()
    (name,) = names
    return lambda params: (params[name],)  # The itemgetter of one name returns no sequence.


Key = tuple[bytes, tuple[int, ...]]


_Dumped = tuple[Statement, Sequence[Buffer | None], tuple[int, ...], Sequence[Format]]
"""A statement with its parameters as they travel, their types and their formats."""


class _Prepared:
    """A statement that is prepared on the connection.

    Attributes:
        name: its name.
        loader: loads its rows, from the first answer on. It is not told the types of the columns
            again, because they never change.
    """

    __slots__ = ("loader", "name")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.loader: Any = None  # a Transformer


class _Sent:
    """The statements up to one Sync, and their results so far.

    Attributes:
        prepared: what it prepares, by the place of the result.
        executed: what each result is the answer of, as it was prepared, or None.
        results: the results so far, in the order of sending.
    """

    __slots__ = ("executed", "prepared", "results")

    def __init__(self) -> None:
        self.prepared: dict[int, Key] = {}
        self.executed: list[_Prepared | None] = []
        self.results: list[PGresult] = []


class Session:
    """Send statements on one connection and collect their answers. It never waits.

    Args:
        connection: a psycopg connection of either form.
        prepare: prepare statements; False if a pooler stands between that cannot keep them.

    Raises:
        InvalidInput: the connection's encoding cannot be used.
    """

    def __init__(self, connection: psycopg.BaseConnection[Any], *, prepare: bool) -> None:
        self._pgconn = connection.pgconn
        self._encoding = connection.info.encoding
        self._adaptation = adaptation(connection)
        self._transformer = Transformer(self._adaptation)
        self._prepare = prepare
        self._seen: set[bytes] = set()
        self._prepared: dict[Key, _Prepared] = {}
        self._last = 0
        # A lone statement is here by what it was prepared as, or None.
        self._sent: deque[_Sent | _Prepared | None] = deque()
        self._result: PGresult | None = None  # of a lone statement that has not ended

    def forget_prepared(self) -> None:
        """Prepare every statement again, as the server's are about to be deallocated."""
        self._prepared.clear()

    def stop_preparing(self) -> None:
        """Prepare no further statement, as they are deallocated in a way that cannot be seen."""
        self._prepare = False

    def _dump(self, query: bytes, params: dict[str, Any]) -> _Dumped:
        statement = compile_statement(query)
        transformer = self._transformer
        try:
            values = transformer.dump_sequence(statement.pick(params), statement.formats)
        except UnicodeEncodeError:
            raise self._untranslatable() from None
        return statement, values, transformer.types or (), transformer.formats or ()

    def _untranslatable(self) -> psycopg.Error:
        return errors.UntranslatableCharacter(f"not in {self._encoding}")

    def send(self, query: bytes, params: dict[str, Any]) -> None:
        """Send one statement. Its answer has one element.

        A statement that is prepared now goes as a unit, so that both travel together.
        """
        # Most statements are prepared, and alone. Each function that this calls would cost time.
        statement = compile_statement(query)
        transformer = self._transformer
        try:
            values = transformer.dump_sequence(statement.pick(params), statement.formats)
        except UnicodeEncodeError:
            raise self._untranslatable() from None
        prepared = self._prepared.get((query, transformer.types or ()))
        if self._sent or (prepared is None and self._prepare and query in self._seen):
            self.send_units([[(query, params)]])
        elif prepared is not None:
            self._pgconn.send_query_prepared(prepared.name, values, transformer.formats, _BINARY)
            self._sent.append(prepared)
        else:
            # The first time it is not prepared: a statement that is used once costs one parse.
            self._seen.add(query)
            self._pgconn.send_query_params(
                statement.query, values, transformer.types, transformer.formats, _BINARY
            )
            self._sent.append(None)

    def send_units(self, units: Sequence[Sequence[Call]]) -> None:
        """Send units, each with a Sync of its own. Earlier ones may still be under way.

        If a parameter cannot be sent, nothing is.
        """
        dumped: list[list[tuple[bytes, _Dumped | None]]] = []
        for unit in units:
            calls: list[tuple[bytes, _Dumped | None]] = []
            for query, params in unit:
                calls.append((query, None if params is None else self._dump(query, params)))
            dumped.append(calls)
        for calls in dumped:
            self._send_unit(calls)

    def _send_unit(self, calls: Sequence[tuple[bytes, _Dumped | None]]) -> None:
        pgconn = self._pgconn
        if pgconn.pipeline_status == _NO_PIPELINE:
            pgconn.enter_pipeline_mode()
        sent = _Sent()
        executed = sent.executed
        for query, dumped in calls:
            prepared: _Prepared | None = None
            if dumped is None:
                pgconn.send_query_params(query, None)
                executed.append(None)
                continue
            statement, values, types, formats = dumped
            if not self._prepare or query not in self._seen:
                self._seen.add(query)
                pgconn.send_query_params(statement.query, values, types, formats, _BINARY)
            else:
                key = query, types
                prepared = self._prepared.get(key)
                if prepared is None:
                    # Later statements can count on it, because the server prepares it first.
                    prepared = self._prepared[key] = self._new_prepared()
                    pgconn.send_prepare(prepared.name, statement.query, types)
                    sent.prepared[len(executed)] = key
                    executed.append(None)
                pgconn.send_query_prepared(prepared.name, values, formats, _BINARY)
            executed.append(prepared)
        executed.append(None)  # for an error of the commit
        pgconn.pipeline_sync()
        self._sent.append(sent)

    def _new_prepared(self) -> _Prepared:
        self._last += 1
        return _Prepared(b"pgmem_%d" % self._last)

    def collect(self) -> Answer | None:
        """Return the oldest answer, or None if more must be read from the socket first.

        Raises:
            psycopg.OperationalError: the connection was lost before the answer was complete.
        """
        sent = self._sent[0]
        if isinstance(sent, _Sent):
            return self._collect_unit(sent)
        pgconn = self._pgconn
        first = self._result
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                break
            if first is None:
                first = self._result = result
        else:
            return None
        if first is None or pgconn.status == _BAD:
            raise self.lost()
        self._result = None
        self._sent.popleft()
        return [self._load(first, sent)] if first.status in _GOOD else self._failure(first)

    def _collect_unit(self, sent: _Sent) -> Answer | None:
        pgconn = self._pgconn
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                if pgconn.status == _BAD:
                    raise self.lost()
            elif result.status == _SYNC:
                break
            else:
                sent.results.append(result)
        else:
            return None
        self._sent.popleft()
        if not self._sent:
            pgconn.exit_pipeline_mode()  # psycopg's own statements need it off.
        return self._answer(sent)

    def lost(self) -> psycopg.Error:
        """Return the error of a connection that was lost: the server's, if it gave a reason."""
        results = [
            result for sent in self._sent if isinstance(sent, _Sent) for result in sent.results
        ]
        for result in (self._result, *results):
            if result is not None and result.status not in _GOOD:
                return errors.error_from_result(result, self._encoding)
        return errors.OperationalError(self._pgconn.get_error_message(self._encoding))

    def _answer(self, sent: _Sent) -> Answer:
        failed: psycopg.Error | None = None
        rows: list[Sequence[Row]] = []
        prepares = sent.prepared
        for place, (result, prepared) in enumerate(zip(sent.results, sent.executed, strict=False)):
            if result.status in _GOOD:
                if failed is None and not (prepares and place in prepares):
                    rows.append(self._load(result, prepared) if result.ntuples else [])
                continue
            if failed is None:
                failed = self._failure(result)
            if place in sent.prepared:
                self._prepared.pop(sent.prepared[place], None)
        return rows if failed is None else failed

    def _failure(self, result: PGresult) -> psycopg.Error:
        failure = errors.error_from_result(result, self._encoding)
        if isinstance(failure, errors.InvalidSqlStatementName):
            # The user of `tx.connection` deallocated all of them.
            self.forget_prepared()
        return failure

    def _load(self, result: PGresult, prepared: _Prepared | None) -> Sequence[Row]:
        count = result.ntuples
        if not count:
            return []
        if prepared is not None and prepared.loader is not None:
            loader = prepared.loader
            loader.set_pgresult(result, set_loaders=False)
        else:
            loader = self._transformer if prepared is None else Transformer(self._adaptation)
            loader.set_pgresult(result)
            if prepared is not None:
                prepared.loader = loader
        rows: Sequence[Row] = loader.load_rows(0, count, tuple)
        loader.set_pgresult(None, set_loaders=False)  # It would keep the result in memory.
        return rows

    def execute(self, query: bytes, params: dict[str, Any]) -> PQGen[Sequence[Row]]:
        """Execute one statement, unprepared; a generator for the `wait` of a connection."""
        statement, values, types, formats = self._dump(query, params)
        self._pgconn.send_query_params(statement.query, values, types, formats, _BINARY)
        sent = _Sent()
        sent.results = yield from execute(self._pgconn)
        sent.executed = [None] * len(sent.results)
        answer = self._answer(sent)
        if isinstance(answer, psycopg.Error):
            raise answer
        return answer[0]


def execute_on(
    connection: psycopg.BaseConnection[Any], query: bytes, params: dict[str, Any]
) -> PQGen[Sequence[Row]]:
    """Execute one statement on any connection; a generator for its `wait`, under its lock.

    It begins the transaction if the connection would do so itself. Whatever cursors, row factories
    and adapters the connection has, they are not used.

    Raises:
        psycopg.Error: the server refused the statement, or the connection was lost.
        InvalidInput: the connection's encoding cannot be used.
    """
    session = Session(connection, prepare=False)
    yield from connection._start_query()
    return (yield from session.execute(query, params))
