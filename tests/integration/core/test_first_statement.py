"""A session that is ended before the first statement of a transaction: BEGIN travels with that."""

from __future__ import annotations

import psycopg
import pytest

from pgmem import Event
from pgmem.errors import Conflict, OutcomeUnknown, Unavailable
from tests.support.relay import Relay

pytestmark = pytest.mark.both_forms

END_SESSIONS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


def end_sessions(url):
    with psycopg.connect(url, autocommit=True) as other:
        assert (True,) in other.execute(END_SESSIONS).fetchall()


@pytest.fixture
async def memory(form):
    async with form.memory(pool=1) as memory:
        await memory.state.put("k", 0)
        yield memory


async def test_it_begins_on_another_connection(form, memory):
    for n in range(1, 12):  # More often than one transaction may repeat it.
        async with memory.transaction() as tx:
            end_sessions(form.url)
            assert (await tx.state.put("k", n)).version == n + 1
            await tx.events.append("s", Event(type="t"))
            with pytest.raises(Conflict):  # It undoes a savepoint of the new connection.
                await tx.state.create("k", 1)
    assert (await memory.state.get("k")).value == n
    assert len(await memory.events.read("s")) == n


async def test_what_was_deferred_is_sent_again(form, memory):
    async with memory.transaction() as tx:
        end_sessions(form.url)
        assert (await tx.dedupe.run_once("key", lambda: 5)).result == 5
    async with memory.transaction() as tx:
        assert (await tx.dedupe.run_once("key", lambda: 6)).result == 5


async def test_it_ends_if_the_caller_has_the_connection(form, memory):
    async def block():
        async with memory.transaction() as tx:
            assert tx.connection is tx.connection
            end_sessions(form.url)
            await tx.state.put("k", 1)

    with pytest.raises(Unavailable, match="nothing of it was committed"):
        await block()
    assert (await memory.state.get("k")).value == 0


async def test_it_asks_for_no_other_connection_if_the_caller_has_the_first(form):
    async def block(relay, memory):
        async with memory.transaction() as tx:
            assert tx.connection is tx.connection
            relay.cut(refuse=True)
            await tx.state.put("k", 1)

    with Relay(form.url) as relay:
        async with form.memory(relay.url, pool=1, timeout=1) as memory:
            # Else the error says that there was no connection in time.
            with pytest.raises(Unavailable, match="nothing of it was committed"):
                await block(relay, memory)
            relay.heal()


async def test_it_ends_after_a_statement_was_answered(form, memory):
    async def block():
        async with memory.transaction() as tx:
            await tx.state.put("k", 1)
            end_sessions(form.url)
            await tx.state.put("other", 1)

    with pytest.raises(Unavailable, match="nothing of it was committed"):
        await block()
    assert (await memory.state.get("k")).value == 0
    assert await memory.state.get("other") is None


async def test_a_caught_loss_is_no_success(form, memory):
    async def block():
        async with memory.transaction() as tx:
            await tx.state.put("k", 1)
            end_sessions(form.url)
            with pytest.raises(Unavailable):
                await tx.state.put("k", 2)

    with pytest.raises(OutcomeUnknown):
        await block()
    assert (await memory.state.get("k")).value == 0
