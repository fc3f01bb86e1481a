"""Sequences that are behind the tables, as after logical replication."""

from __future__ import annotations

import json

import pytest

from pgmem import AsyncMemory, Event
from pgmem.admin.sequences import sync_sequences
from pgmem.errors import SchemaError
from tests.support.commands import run
from tests.support.database import sql


async def fill(url) -> None:
    async with AsyncMemory(url) as memory:
        await memory.events.append("s", [Event(type="t")] * 20)
        await memory.leases.acquire("job", ttl=60)
        group = await memory.groups.create("g")
        await group.read("a", 5)


async def test_writes_are_refused_while_the_sequence_is_behind_the_log(database_url):
    await fill(database_url)
    sql(database_url, "SELECT setval('pgmem.events_position_seq', 10)")
    async with AsyncMemory(database_url) as memory:
        assert len(await memory.events.read("s")) <= 20
        assert len(await memory.events.read("s", reverse=True)) == 20
        with pytest.raises(SchemaError, match=r"setval\('pgmem.events_position_seq', 20\)"):
            await memory.events.append("s", Event(type="t"))
        with pytest.raises(SchemaError, match="pgmem migrate sync-sequences"):
            await memory.state.put("k", 1)
        with pytest.raises(SchemaError):
            async with memory.transaction() as tx:
                await tx.events.append("s", Event(type="t"))
    assert [(move.name, move.after) for move in sync_sequences(database_url)] == [
        ("events_position_seq", 20)
    ]
    async with AsyncMemory(database_url) as memory:
        assert (await memory.events.append("s", Event(type="t"))).position == 21


async def test_fencing_tokens_go_on_above_those_that_rows_may_have_held(database_url):
    await fill(database_url)
    sql(database_url, "SELECT setval('pgmem.leases_token_seq', 1, false)")
    moved = sync_sequences(database_url)
    assert [(move.name, move.after) for move in moved] == [("leases_token_seq", 1 << 40)]
    async with AsyncMemory(database_url) as memory:
        assert (await memory.leases.acquire("other", ttl=60)).token > 1 << 40


async def test_the_command_sets_sequences(capfd, database_url):
    await fill(database_url)
    command = ["migrate", "sync-sequences", "--url", database_url]
    assert run(capfd, command)[1].startswith("schema pgmem: no sequence is behind")
    sql(database_url, "SELECT setval('pgmem.events_position_seq', 10)")
    code, out, _ = run(capfd, [*command, "--json"])
    assert code == 0
    assert json.loads(out)["sequences"] == [
        {"name": "events_position_seq", "before": 10, "after": 20}
    ]
