"""Claims and acknowledgements whose answer is lost: found again at once, and told as they were."""

from __future__ import annotations

import asyncio

import pytest

from pgmem import AsyncMemory, Event
from pgmem.errors import LeaseLost, OutcomeUnknown, Unavailable
from tests.support.cutting import CuttingRelay
from tests.support.groups import lapse, positions

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


@pytest.fixture
def relay(database_url, tmp_path):
    relay = CuttingRelay(database_url, tmp_path)
    yield relay
    relay.close()


@pytest.fixture
async def cut(form, relay):
    """Open a memory behind the relay."""
    async with form.memory(relay.url, pool=2, timeout=3) as memory:
        yield memory


async def filled(memory, **options):
    await memory.events.append("s", [Event(type="t", payload=n) for n in range(6)])
    return await memory.groups.create("g", **options)


@pytest.mark.parametrize("ordered_by", [None, "stream"])
async def test_a_claim_with_a_lost_answer_is_found_again(cut, relay, ordered_by):
    group = await filled(cut, ordered_by=ordered_by)
    relay.cut_once_after(b"MARK")
    batch = await group.read("MARK", 2)
    assert [(one.event.position, one.attempts) for one in batch] == [(1, 1), (2, 1)]
    assert relay.cuts == 1
    assert [one.position for one in await group.pending() if not one.delayed] == [1, 2]


async def test_the_next_claim_finds_what_a_failed_one_claimed(cut, relay):
    """Keep the server away for longer than a read waits for it."""
    group = await filled(cut)
    cutting = []

    def away_from_the_claim_on(chunk: bytes) -> bool:
        cutting.extend([1] if b"MARK" in chunk else [])
        return bool(cutting)

    relay.cut_after = away_from_the_claim_on
    with pytest.raises((OutcomeUnknown, Unavailable)):
        await group.read("MARK", 2)
    relay.cut_after = lambda chunk: False
    while True:
        try:
            other = await group.read("other", 1)
            break
        except Unavailable:  # The pool pauses between attempts to connect.
            continue
    assert positions(other) == [3]
    batch = await group.read("MARK", 6)
    assert [(one.event.position, one.attempts) for one in batch][:2] == [(1, 1), (2, 1)]


async def test_what_a_cancelled_read_claimed_is_found_by_the_next(database_url):
    """Only tasks are cancelled."""
    async with AsyncMemory(database_url) as memory:
        group = await filled(memory)
        execute = memory._executor.execute

        async def slow(op, **options):
            result = await execute(op, **options)
            if op.statement.startswith("group_claim"):
                await asyncio.sleep(60)
            return result

        group._claims._reader.executor.execute = slow
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(group.read("a", 2), 0.5)
        del group._claims._reader.executor.execute
        assert (await group.info()).held == 2
        batch = await group.read("a", 2)
    assert [(one.event.position, one.attempts) for one in batch] == [(1, 1), (2, 1)]


async def test_an_acknowledgement_with_a_lost_answer_was_made(cut, relay):
    group = await filled(cut)
    batch = await group.read("a", 2)
    relay.cut_once_after(b"unnest($1")
    await group.ack(batch)
    assert relay.cuts == 1
    assert await group.pending() == []
    with pytest.raises(LeaseLost):
        await group.ack(batch)


async def test_an_acknowledgement_that_was_too_late_says_so_after_a_lost_answer(
    cut, relay, database_url
):
    group = await filled(cut)
    batch = await group.read("a", 1)
    lapse(database_url)
    assert positions(await group.read("b", 1)) == [1]
    relay.cut_once_after(b"unnest($1")
    with pytest.raises(LeaseLost):
        await group.ack(batch)
    assert relay.cuts == 1
    assert [one.member for one in await group.pending()] == ["b"]
