"""A server that goes silent inside a transaction: pgmem's own, an optimistic one, the caller's.

Every verb in it raises, and nothing is committed.
"""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psycopg
import pytest

from pgmem.errors import PgmemError, VersionConflict
from pgmem.groups.transaction_group import AsyncTransactionGroup
from pgmem.optimistic.transaction import AsyncOptimistic
from pgmem.transaction import AsyncBoundMemory, AsyncTransaction
from tests.support.silence import (
    EVENT,
    NEVER,
    TOGETHER,
    VERBS,
    FallsSilent,
    Made,
    awaited,
    check,
    ended,
    enter,
    public,
    silenced,
    verbs_of,
)

pytestmark = [
    pytest.mark.both_forms,
    # Sockets of connections that were given up are closed when the relay ends.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

# The verbs of a transaction that a memory does not have.
IN_A_TRANSACTION = {
    "leases.require": lambda tx, made: tx.leases.require(made.lease),
    **{
        f"group.{verb}": lambda tx, made, verb=verb: _in_group(tx, made, verb)
        for verb in ("ack", "dead_letter", "dead_letters", "info", "nack", "pending", "requeue")
    },
}

# An optimistic transaction asks the server when it reads, and at its end.
OPTIMISTIC = {
    "events.append": lambda tx, _: tx.events.append("s", EVENT),
    "events.read": lambda tx, _: tx.events.read("s"),
    "events.read_stream": lambda tx, _: tx.events.read_stream("s"),
    "events.version": lambda tx, _: tx.events.version("s"),
    "state.delete": lambda tx, _: tx.state.delete("k"),
    "state.get": lambda tx, _: tx.state.get("k"),
    "state.get_many": lambda tx, _: tx.state.get_many(["k"]),
    "state.put": lambda tx, _: tx.state.put("k", 2),
    "state.search": lambda tx, _: tx.state.search(),
    "tx.ack": lambda tx, made: tx.ack(made.delivery),
    "tx.commit": lambda tx, made: tx.commit(made.subscription, made.received),
}


def bound():
    """Return what `using()` gives. Nothing is asked of its connection."""
    return AsyncBoundMemory(None, None, None)


def bound_verbs():
    found = verbs_of({name: getattr(bound(), name) for name in public(bound())})
    group = AsyncTransactionGroup
    members = {verb for verb in public(group) if inspect.isfunction(getattr(group, verb))}
    return sorted(found | {f"group.{verb}" for verb in members})


def test_every_verb_of_a_transaction_is_called():
    """Call those of `tx` and of `using()`, which are the same."""
    assert public(AsyncTransaction) - public(AsyncBoundMemory) == {"connection"}
    assert set(bound_verbs()) <= set(VERBS) | set(IN_A_TRANSACTION)
    assert set(IN_A_TRANSACTION) <= set(bound_verbs())


def test_every_verb_of_an_optimistic_transaction_is_called():
    tx = AsyncOptimistic(SimpleNamespace(executor=None, codec=None, cache=None))
    found = verbs_of({"events": tx.events, "state": tx.state})
    verbs = {
        verb for verb in public(AsyncOptimistic) if inspect.isfunction(vars(AsyncOptimistic)[verb])
    }
    assert set(OPTIMISTIC) == found | {f"tx.{verb}" for verb in verbs}


def _in_group(tx, made, verb):
    arguments = [[made.delivery]] if verb in ("ack", "dead_letter", "nack") else []
    if made.sync:
        return getattr(tx.groups.get("g"), verb)(*arguments)
    return _in_group_async(tx, verb, arguments)


async def _in_group_async(tx, verb, arguments):
    return await getattr(await tx.groups.get("g"), verb)(*arguments)


def in_a_transaction(memory, made, verb):
    """Call a verb in a transaction that has begun before the server goes silent."""
    return enter(memory.transaction(), lambda tx: after_silence(tx, made, verb, IN_A_TRANSACTION))


def in_an_optimistic_one(memory, made, verb):
    return enter(memory.optimistic(), lambda tx: after_silence(tx, made, verb, OPTIMISTIC))


def on_the_callers_connection(memory, made, verb):
    if made.sync:
        connection = psycopg.connect(made.relay.url)
        try:
            return after_silence(memory.using(connection), made, verb, IN_A_TRANSACTION)
        finally:
            connection.close()
    return _on_the_callers_connection(memory, made, verb)


async def _on_the_callers_connection(memory, made, verb):
    connection = await psycopg.AsyncConnection.connect(made.relay.url)
    try:
        return await after_silence(memory.using(connection), made, verb, IN_A_TRANSACTION)
    finally:
        await connection.close()


def after_silence(tx, made, verb, table):
    call = table.get(verb) or VERBS[verb]
    if not made.sync:
        return _after_silence(tx, made, call)
    tx.state.get("k")
    made.relay.silence(new=True)
    return call(tx, made)


async def _after_silence(tx, made, call):
    await tx.state.get("k")
    made.relay.silence(new=True)
    return await awaited(call(tx, made))


BOUND = bound_verbs()


@pytest.mark.parametrize("where", [in_a_transaction, on_the_callers_connection])
@pytest.mark.parametrize("first", range(0, len(BOUND), TOGETHER))
async def test_every_verb_in_a_transaction_ends_at_a_silent_server_20(
    form, make_database, tmp_path, first, where
):
    verbs = BOUND[first : first + TOGETHER]
    found, closed = await silenced(form, make_database, tmp_path, verbs, where)
    check(found, closed)
    # Nothing was committed: the caller must not go on as if it were.
    assert [
        verb for verb, (_, outcome) in found.items() if not isinstance(outcome, Exception)
    ] == []


async def test_every_verb_of_an_optimistic_transaction_ends_at_a_silent_server_20(
    form, make_database, tmp_path
):
    verbs = sorted(OPTIMISTIC)
    check(*await silenced(form, make_database, tmp_path, verbs, in_an_optimistic_one))


def conflict(tx):
    return tx.events.append("s", EVENT, expected_version=7)


def conflict_in_a_transaction(memory, made):
    return enter(memory.transaction(), conflict)


def conflict_on_the_callers_connection(memory, made):
    if not made.sync:
        return _conflict_on_the_callers_connection(memory, made)
    connection = psycopg.connect(made.relay.url)
    try:
        return conflict(memory.using(connection))
    finally:
        connection.close()


async def _conflict_on_the_callers_connection(memory, made):
    connection = await psycopg.AsyncConnection.connect(made.relay.url)
    try:
        return await conflict(memory.using(connection))
    finally:
        await connection.close()


@pytest.mark.parametrize("where", [conflict_in_a_transaction, conflict_on_the_callers_connection])
async def test_a_conflict_ends_wherever_the_server_goes_silent_20(form, database_url, where):
    """Go silent before each statement: BEGIN, the savepoint, the append, its undoing."""

    async def tried(threads, count):
        with FallsSilent(database_url, count) as relay:
            made = Made(form, relay.url, threads, relay)
            await made.call(made.memory.open)
            opened = relay.statements
            seconds, outcome = await ended(made, lambda: where(made.memory, made))
            sent = relay.statements
            await ended(made, made.memory.close)
        return opened, sent, seconds, outcome

    with ThreadPoolExecutor(20) as threads:
        opened, sent, _, outcome = await tried(threads, 1_000_000)
        assert isinstance(outcome, VersionConflict)
        found = await asyncio.gather(*(tried(threads, n) for n in range(opened, sent)))
    assert len(found) > 2
    for _, _, seconds, outcome in found:
        assert seconds != NEVER
        assert isinstance(outcome, PgmemError), repr(outcome)
