"""Prepared statements of pgmem's own connections."""

from __future__ import annotations

from contextlib import suppress

import pytest

from pgmem import Event, Memory
from tests.support.both import execute

PREPARED = "SELECT name, statement FROM pg_prepared_statements WHERE name LIKE 'pgmem%'"


def test_a_statement_is_prepared_once_for_each_connection(database_url):
    with Memory(database_url, pool=1) as memory:
        for n in range(5):
            memory.state.put("k", n)
        with memory.transaction() as tx:
            found = tx.connection.execute(PREPARED).fetchall()
    puts = [text for _, text in found if "INSERT INTO" in text and "state AS held" in text]
    assert len(puts) == 1


def test_statements_are_prepared_again_after_all_were_deallocated(database_url):
    with Memory(database_url, pool=1) as memory:
        memory.state.put("k", 1)
        with memory.transaction() as tx:
            tx.connection.execute("DEALLOCATE ALL")
        assert memory.state.put("k", 2).version == 2
        assert memory.state.get("k").value == 2


def test_a_refused_statement_leaves_the_connection_usable(database_url):
    with Memory(database_url, pool=1) as memory:
        memory.events.append("s", Event(type="t"))
        for _ in range(2):
            memory.events.append("s", Event(type="t"), idempotency_key="k")
        assert memory.events.count("s") == 2


def test_statements_of_a_transaction_outlive_a_rollback_of_psycopg(database_url):
    """After five executions psycopg prepares the user's statement; then a rollback drops all."""

    def write(memory, n):
        with memory.transaction() as tx:
            tx.connection.execute("SELECT %s::int", [n])
            tx.state.put("k", n)
            if n % 7 == 6:
                raise ZeroDivisionError

    with Memory(database_url, pool=1) as memory:
        for n in range(20):
            with suppress(ZeroDivisionError):
                write(memory, n)
        assert memory.state.get("k").value == 19


@pytest.mark.parametrize("statement", ["DEALLOCATE ALL", "deallocate all; SELECT 1"])
async def test_a_caller_may_deallocate_inside_a_transaction(form, statement):
    async with form.memory(pool=1) as memory:
        for n in range(3):
            async with memory.transaction() as tx:
                await tx.state.put("k", n)
                await tx.state.put("k", n)  # prepared
                await execute(tx.connection, "SELECT 1")
                await execute(tx.connection, statement)
                await tx.state.put("k", n)
                await execute(tx.connection, "SELECT 1")
        assert (await memory.state.get("k")).value == 2


async def test_a_deallocation_that_is_hidden_in_a_function_costs_one_transaction(form):
    """Run the whole transaction again: its statements are not prepared any more."""
    hidden = "DO $$ BEGIN EXECUTE 'DEALLO' || 'CATE ALL'; END $$"
    async with form.memory(pool=1) as memory:

        async def work(tx):
            await tx.state.put("k", 1)
            await tx.state.put("k", 2)
            await execute(tx.connection, hidden)
            await tx.state.put("k", 3)
            return "done"

        assert await memory.run_transaction(work) == "done"
        assert (await memory.state.get("k")).value == 3
