"""Reading: filters, ranges and the stable position."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest
from pydantic import BaseModel

from pgmem import Event, Memory
from pgmem.errors import InvalidInput, InvalidValue


@pytest.fixture
async def log(both):
    """Nine events: three streams, two types, two agents."""
    for n in range(9):
        await both.events.append(
            f"s{n % 3}",
            Event(type=f"t{n % 2}", payload=n, agent_id=f"a{n // 5}"),
        )
    return both


async def payloads(memory, *args, **options):
    return [event.payload for event in await memory.events.read(*args, **options)]


async def test_reads_by_stream_type_agent_and_range(log):
    assert await payloads(log) == list(range(9))
    assert await payloads(log, "s1") == [1, 4, 7]
    assert await payloads(log, type="t1") == [1, 3, 5, 7]
    assert await payloads(log, agent_id="a1") == [5, 6, 7, 8]
    assert await payloads(log, "s1", type="t1", agent_id="a1") == [7]
    assert await payloads(log, after=3, until=6) == [3, 4, 5]
    assert await payloads(log, "nothing") == []


async def test_reverse_gives_the_newest_first(log):
    assert await payloads(log, reverse=True, limit=3) == [8, 7, 6]
    assert await payloads(log, "s0", reverse=True, after=1) == [6, 3]


async def test_pages_by_limit_and_after_miss_nothing(log):
    found, after = [], 0
    while page := await log.events.read(after=after, limit=2):
        found += [event.payload for event in page]
        after = page[-1].position
    assert found == list(range(9))


async def test_count(log):
    assert await log.events.count() == 9
    assert await log.events.count("s1", type="t1") == 2
    assert await log.events.count(after=3, until=6) == 3


async def test_model_makes_payloads_typed(both):
    class Payment(BaseModel):
        amount: int

    await both.events.append("s", Event(type="t", payload=Payment(amount=5)))
    (event,) = await both.events.read("s", model=Payment)
    assert event.payload == Payment(amount=5)
    await both.events.append("s", Event(type="t", payload={"amount": "secret-value"}))
    with pytest.raises(InvalidValue, match="Payment") as error:
        await both.events.read("s", model=Payment, on_invalid="raise")
    assert "secret-value" not in str(error.value)


async def test_timeout_waits_for_the_first_event(both, database_url):
    began = time.monotonic()
    assert await both.events.read("s", timeout=0.05) == []
    assert time.monotonic() - began >= 0.05

    def append_later():
        time.sleep(0.1)
        with Memory(database_url) as other:
            other.events.append("s", Event(type="t", payload=1))

    later = asyncio.get_running_loop().run_in_executor(None, append_later)
    (event,) = await both.events.read("s", timeout=10)
    assert event.payload == 1
    await later


async def test_a_reverse_read_does_not_wait(both):
    with pytest.raises(InvalidInput, match="timeout="):
        await both.events.read(timeout=1, reverse=True)


class OpenWriter:
    """A transaction that has appended one event and is still open."""

    def __init__(self, url: str, stream: str = "slow") -> None:
        self.connection = psycopg.connect(url)
        self.position = self.connection.execute(
            "INSERT INTO pgmem.events (stream, type, payload) VALUES (%s, 't', '0') "
            "RETURNING position",
            (stream,),
        ).fetchone()[0]

    def end(self, how: str) -> None:
        getattr(self.connection, how)()
        self.connection.close()


@pytest.mark.parametrize("selection", [{}, {"stream": "s"}, {"type": "fast"}])
@pytest.mark.parametrize("how", ["commit", "rollback"])
async def test_a_forward_read_ends_below_an_open_writers_position(
    both, database_url, selection, how
):
    await both.events.append("s", Event(type="fast", payload="before"))
    writer = OpenWriter(database_url)
    await both.events.append("s", Event(type="fast", payload="after"))
    assert await payloads(both, **selection) == ["before"]
    assert await payloads(both, reverse=True, **selection) == ["after", "before"]
    writer.end(how)
    late = [0] if how == "commit" and not selection else []
    assert await payloads(both, **selection) == ["before", *late, "after"]


async def test_an_open_writer_on_another_stream_hides_no_earlier_events(both, database_url):
    """Contiguity: positions below the open one are stable while other writers are open."""
    await both.events.append("s", [Event(type="t", payload=n) for n in range(20)])
    writer = OpenWriter(database_url)
    try:
        async_result = await payloads(both, "s")
        assert async_result == list(range(20))
    finally:
        writer.end("rollback")


async def test_a_rolled_back_position_is_skipped_while_short_writers_come_and_go(
    both, database_url
):
    """Resolve the gap by waiting for the writers of its time, not for a moment without any."""
    writers = [OpenWriter(database_url)]
    OpenWriter(database_url).end("rollback")
    await both.events.append("s", Event(type="t", payload=1))

    async def take_turns():
        for _ in range(20):
            writers.append(OpenWriter(database_url))
            await asyncio.sleep(0.01)
            writers.pop(0).end("rollback")

    found, _ = await asyncio.gather(asyncio.to_thread(_read_sync, database_url), take_turns())
    writers.pop().end("rollback")
    assert found == [1]


async def test_stable_events_stay_readable_while_a_writer_is_open(both, database_url):
    OpenWriter(database_url).end("rollback")
    await both.events.append("s", Event(type="t", payload=1))
    assert await payloads(both, "s") == [1]
    writer = OpenWriter(database_url)
    try:
        assert await payloads(both, "s") == [1]
    finally:
        writer.end("commit")


async def test_a_prepared_transaction_is_waited_for(both, database_url):
    """PREPARE renames the lock's holder. The new name must count as an open writer."""
    with psycopg.connect(database_url) as connection:
        connection.tpc_begin(connection.xid(1, "pgmem-test", "branch"))
        connection.execute(
            "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '\"late\"')"
        )
        await both.events.append("s", Event(type="t", payload="later"))

        async def prepare_meanwhile():
            await asyncio.sleep(0.05)
            await asyncio.to_thread(connection.tpc_prepare)

        found, _ = await asyncio.gather(
            asyncio.to_thread(lambda: _read_sync(database_url)), prepare_meanwhile()
        )
        assert found == []
        assert await payloads(both) == []
        connection.tpc_commit()
    assert await payloads(both) == ["late", "later"]


def _read_sync(url):
    with Memory(url) as memory:
        return [event.payload for event in memory.events.read("s")]


async def test_a_transaction_reads_what_it_sees(both):
    async with both.transaction() as tx:
        await tx.events.append("s", Event(type="t", payload=1))
        assert await payloads(tx, "s") == [1]
        assert await payloads(both, "s", reverse=True) == []


async def test_reading_does_not_hold_up_a_writer(both, database_url):
    writer = OpenWriter(database_url)
    await both.events.append("s", Event(type="t"))
    began = time.monotonic()
    await both.events.read("s")
    assert time.monotonic() - began < 5
    writer.end("commit")
    assert await both.events.count() == 2
