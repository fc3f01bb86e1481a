"""Another schema than the default, and two beside each other."""

from __future__ import annotations

from pgmem import Event, Memory, migrate


async def test_two_memories_in_one_database_share_nothing(form):
    migrate.upgrade(form.url, schema="second")
    async with form.memory() as first, form.memory(schema="second") as second:
        await first.events.append("s", Event(type="t"), idempotency_key="k")
        await first.state.put("k", 1)
        receipt = await second.events.append("s", Event(type="t"), idempotency_key="k")
        assert (receipt.position, receipt.duplicate) == (1, False)
        assert await second.state.get("k") is None
        async with second.transaction() as tx:
            await tx.state.update("k", lambda value: 2)
        assert (await second.state.get("k")).value == 2
        assert (await first.state.get("k")).value == 1
        assert await second.events.count() == 2


def test_repr_tells_where(database_url):
    assert "schema=pgmem" in repr(Memory(database_url))
