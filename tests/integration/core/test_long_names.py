"""Names of the greatest length work everywhere, and two of them never become one."""

from __future__ import annotations

import pytest

from pgmem import Event, Outcome
from pgmem.core.names import NAME_BYTES
from tests.support.group_run import GroupRun

LONG = "x" * NAME_BYTES
ALIKE = "x" * (NAME_BYTES - 1) + "y"
WIDE = "組" * 170
NAMES = (LONG, ALIKE, WIDE)


async def test_long_names_are_kept_apart(both):
    for number, name in enumerate(NAMES):
        assert (await both.state.put(name, number)).version == 1
        await both.events.append(name, Event(type=name, payload=number), idempotency_key=name)
        assert await both.dedupe.run_once(name, lambda number=number: number) == Outcome(
            "processed", number
        )
        async with both.optimistic(idempotency_key=name) as tx:
            await tx.state.put("optimistic", number)
        assert not tx.committed.duplicate
        await both.folds.save(name, number, position=1)
        async with both.leases.hold(name) as lease:
            await both.state.compare_and_set(name, number, expected_version=1, fence=lease)
    for number, name in enumerate(NAMES):
        entry = await both.state.get(name)
        assert (entry.value, entry.version) == (number, 2)
        assert [event.payload for event in await both.events.read(name)] == [number]
        assert len(await both.state.history(name)) == 2
        assert await both.dedupe.run_once(name, lambda: "again") == Outcome("skipped", number)
        assert (await both.folds.load(name)).value == number


@pytest.mark.both_forms
@pytest.mark.parametrize("form", ["async", "sync"])
def test_groups_with_long_names_that_begin_alike_each_handle_every_event(
    form, database_url, memory
):
    memory.events.append("s", [Event(type="t", payload=n) for n in range(10)])
    for name in NAMES:
        life = GroupRun(form, database_url)
        life.group, handled = name, []
        life.run(
            lambda delivery, handled=handled: handled.append(delivery.event.payload),
            lambda memory, handled=handled: len(handled) == 10,
            once="claim",
        )
        assert sorted(handled) == list(range(10))
