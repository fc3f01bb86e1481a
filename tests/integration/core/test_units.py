"""Several statements in one round trip on pgmem's own connections."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pgmem._sync.core.connection import AnswerTimeoutError as SyncTimeoutError
from pgmem._sync.core.connection import Connection
from pgmem.core.concurrency import AsyncBackground, Background
from pgmem.core.connection import AnswerTimeoutError, AsyncConnection

pytestmark = pytest.mark.both_forms

ONE = (b"SELECT %(n)s::int", {"n": 1})
REFUSED = (b"SELECT 1 / %(n)s::int", {"n": 0})


class Opened:
    """A connection of one form whose methods are awaited."""

    def __init__(self, connection) -> None:
        self.wrapped = connection

    def __getattr__(self, name):
        found = getattr(self.wrapped, name)
        if isinstance(self.wrapped, Connection) and callable(found):

            async def call(*args):
                return found(*args)

            return call
        return found


@pytest.fixture
async def connection(form):
    options = {"autocommit": True, "prepare_threshold": 1}
    if form.name == "async":
        connection = Opened(await AsyncConnection.connect(form.url, **options))
        connection.wrapped.prepare_for_use(AsyncBackground())
    else:
        connection = Opened(Connection.connect(form.url, **options))
        connection.wrapped.prepare_for_use(Background())
    yield connection
    connection.wrapped.finish()


def insert(n):
    return b"INSERT INTO written VALUES (%(n)s) RETURNING n", {"n": n}


async def test_each_unit_has_the_rows_of_its_statements(connection):
    units = [[ONE, (b"SELECT %(n)s::int, 'x'", {"n": 2})], [ONE]]
    for _ in range(3):  # unnamed, prepared in the unit, prepared before
        assert await connection.run_units(units) == [[[(1,)], [(2, "x")]], [[(1,)]]]


async def test_a_unit_takes_effect_as_a_whole_and_its_error_reaches_no_other_unit(connection):
    await connection.run(b"CREATE TEMP TABLE written (n int)", {})
    for _ in range(3):
        units = [[insert(1)], [insert(2), REFUSED, insert(3)], [insert(4)]]
        first, second, third = await connection.run_units(units)
        assert (first, third) == ([[(1,)]], [[(4,)]])
        assert isinstance(second, psycopg.errors.DivisionByZero)
    found = await connection.run(b"SELECT n, count(*) FROM written GROUP BY n ORDER BY n", {})
    assert found == [(1, 3), (4, 3)]


async def test_a_skipped_preparation_is_made_later(connection):
    await connection.run(*ONE)
    (failed,) = await connection.run_units([[REFUSED, ONE]])
    assert isinstance(failed, psycopg.errors.DivisionByZero)
    assert await connection.run_units([[ONE], [ONE]]) == [[[(1,)]], [[(1,)]]]


async def test_an_error_at_the_commit_is_the_units(connection):
    await connection.run(
        b"CREATE TEMP TABLE written (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)", {}
    )
    first, second = await connection.run_units([[insert(1), insert(1)], [insert(2)]])
    assert isinstance(first, psycopg.errors.UniqueViolation)
    assert second == [[(2,)]]


async def test_a_parameter_that_cannot_be_sent_sends_nothing_of_its_unit(connection):
    with pytest.raises(psycopg.ProgrammingError):
        await connection.run_units([[ONE, (b"SELECT %(n)s", {"n": object()})]])
    assert await connection.run(*ONE) == [(1,)]


async def test_more_than_the_sockets_hold_goes_both_ways(connection):
    long = "x" * 1_000_000
    units = [[(b"SELECT %(text)s::text", {"text": long})] for _ in range(20)]
    assert await connection.run_units(units) == [[[(long,)]]] * 20


async def test_a_unit_without_an_answer_in_time_is_given_up(connection):
    connection.wrapped.answer_timeout = 0.1
    timed_out = AnswerTimeoutError, SyncTimeoutError
    with pytest.raises(timed_out):
        await connection.run_units([[ONE], [(b"SELECT pg_sleep(60)", {})]])
    assert connection.given_up


async def test_the_reason_of_a_closed_connection_is_the_servers(connection):
    end = (b"SELECT pg_terminate_backend(pg_backend_pid())", {})
    with pytest.raises(psycopg.errors.AdminShutdown):
        await connection.run_units([[ONE, end], [ONE]])
    assert connection.closed


async def test_a_cancelled_call_gives_the_connection_up(form):
    connection = await AsyncConnection.connect(form.url, autocommit=True)
    connection.prepare_for_use(AsyncBackground())
    await connection.run(*ONE)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await connection.run_units([[ONE, (b"SELECT pg_sleep(60)", {})], [ONE]])
    assert connection.given_up
    with pytest.raises(psycopg.OperationalError, match="given up"):
        await connection.run(*ONE)
