"""The matrix of roles: what each may do works, and everything else is refused."""

from __future__ import annotations

import pytest

from pgmem import Event
from pgmem.errors import InvalidInput, PermissionDenied, SchemaError
from tests.support.database import sql as run
from tests.support.retention import exported
from tests.support.roles import roles_of


async def _append(memory):
    await memory.events.append("s", [Event(type="t"), Event(type="t")])
    await memory.events.append("s", Event(type="t"), idempotency_key="key")
    await memory.events.append("v", Event(type="t"), expected_version=0)
    await memory.events.append("w", Event(type="t"), expected_version=0, idempotency_key="other")


async def _state(memory):
    await memory.state.put("k", 1, ttl=60)
    await memory.state.compare_and_set("k", 2, expected_version=1)
    await memory.state.create("created", 1)
    await memory.state.increment("n")
    await memory.state.put_many({"a": 1, "b": 2})
    await memory.state.delete("k")
    async with memory.transaction() as tx:
        await tx.state.put("k", 1)
        await tx.events.append("s", Event(type="t"))


async def _dedupe(memory):
    claim = await memory.dedupe.claim("work", lease=10)
    await memory.dedupe.complete(claim, result=1)


async def _group(memory):
    group = await memory.groups.create("mine", stream="s", after=0)
    for delivery in await group.read("m", limit=10):
        await delivery.ack()
    await memory.groups.delete("mine")


async def _repair(memory):
    group = await memory.groups.get("repaired")
    await group.requeue()
    await group.reset(0)


async def _subscribe(memory):
    async with memory.events.subscribe("s", after=0, durable="d") as subscription:
        await subscription.receive(10, timeout=1)


async def _lease(memory):
    async with memory.leases.hold("l", timeout=0):
        pass


ACTS = {
    "read events": lambda memory: memory.events.read("s"),
    "read state": lambda memory: memory.state.get("k"),
    "append": _append,
    "write state": _state,
    "claim work": _dedupe,
    "work in a group": _group,
    "repair a group": _repair,
    "follow durably": _subscribe,
    "hold a lease": _lease,
    "take from a limit": lambda memory: memory.limits.acquire("l", rate=10, burst=5),
    "snapshot the state": lambda memory: memory.state.snapshots.take("x"),
    "set a policy": lambda memory: memory.retention.set(max_events=100),
    "trim": lambda memory: memory.retention.trim(max_events=1),
    "maintain": lambda memory: memory.retention.maintain(),
}
_AGENT = set(ACTS) - {"set a policy", "trim", "maintain"}
MAY = {
    "reader": {"read events", "read state"},
    "appender": {"read events", "append", "claim work"},
    "agent": _AGENT,
    "operator": {
        "read events", "read state", "work in a group", "repair a group", "follow durably",
        "hold a lease",
    },
    "janitor": set(ACTS),
}  # fmt: skip


@pytest.fixture
def roles(database_url):
    with roles_of(database_url) as roles:
        yield roles


@pytest.mark.parametrize("kind", MAY)
async def test_role_may_do_what_it_was_granted_and_nothing_else(kind, form, roles):
    async with form.memory() as owner:
        await owner.events.append("s", [Event(type="t") for _ in range(3)])
        await owner.groups.create("repaired", stream="s", after=0)
        async with form.memory(roles.url(kind), agent_id=kind) as memory:
            for name, act in ACTS.items():
                if name in MAY[kind]:
                    await act(memory)
                else:
                    with pytest.raises(PermissionDenied):
                        await act(memory)


async def test_role_without_a_grant_cannot_open_a_memory(form, roles):
    with pytest.raises(PermissionDenied):
        async with form.memory(roles.url("other")):
            pass


async def test_only_the_owner_restores(form, roles, tmp_path):
    async with form.memory() as owner:
        await owner.events.append("s", [Event(type="t") for _ in range(5)])
        (file,) = await exported(owner, tmp_path, max_events=2)
        for kind in MAY:
            async with form.memory(roles.url(kind)) as memory:
                with pytest.raises(PermissionDenied):
                    await memory.retention.restore(file)
        assert (await owner.retention.restore(file)).restored == 3


async def test_the_janitors_lease_cannot_be_acquired(both):
    """Keep callers from stopping the maintenance of all processes."""
    with pytest.raises(InvalidInput, match="pgmem's own"):
        await both.leases.acquire("pgmem:janitor", timeout=0)
    with pytest.raises(InvalidInput, match="pgmem's own"):
        async with both.leases.hold("pgmem:janitor", timeout=0):
            pass


async def test_row_level_security_is_refused(form):
    run(form.url, "ALTER TABLE pgmem.events ENABLE ROW LEVEL SECURITY")
    with pytest.raises(SchemaError, match="row-level security on events"):
        async with form.memory():
            pass
