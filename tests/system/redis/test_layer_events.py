"""`SharedMemoryLayer` writes and reads events, the latest state and snapshots."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from pgmem import Event, Memory
from pgmem.errors import InvalidInput, InvalidValue, NotOpen
from tests.support.cutting import CuttingRelay

SOON = 20


async def read(layer, last_id="0", count=100):
    """Return the entries of one reply, or fail after a timeout."""
    ((_, entries),) = await asyncio.wait_for(layer.read_events(last_id, count), SOON)
    return entries


def payloads(entries):
    return [json.loads(fields[b"payload"]) for _, fields in entries]


async def test_a_reply_looks_as_that_of_a_redis_client(layer):
    before = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=1)
    await layer.write_event("validator", "payment.validated", {"amount": 5, "to": "Hà"})
    reply = await layer.read_events(last_id="0", count=100)
    ((stream, entries),) = reply
    ((identity, fields),) = entries
    assert isinstance(reply, list)
    assert isinstance(entries, list)
    assert isinstance(entries[0], tuple)
    assert (stream, identity) == (b"agent:events", b"0-0000000000000000001")
    assert list(fields) == [b"agent_id", b"event_type", b"payload", b"timestamp"]
    assert fields[b"agent_id"] == b"validator"
    assert fields[b"event_type"] == b"payment.validated"
    assert fields[b"payload"] == json.dumps({"amount": 5, "to": "Hà"}).encode()
    at = datetime.fromisoformat(fields[b"timestamp"].decode())
    assert at.tzinfo is None
    assert before < at < before + timedelta(minutes=2)


async def test_a_client_that_decodes_gets_texts(layers):
    async with layers.open(decode_responses=True) as layer:
        await layer.write_event("a", "t", {"n": 1})
        ((stream, ((identity, fields),)),) = await layer.read_events()
        assert (stream, identity) == ("agent:events", "0-0000000000000000001")
        assert (fields["agent_id"], fields["payload"]) == ("a", '{"n": 1}')
        await layer.update_with_version("r", lambda current: {"n": current.get("n", "none")})
        seen = []
        await layer.update_with_version("r", lambda current: seen.append(current) or current)
        assert seen == [{"n": "none", "version": 2}], "given back changed, as it was published"


async def test_ids_go_on_where_the_last_one_was_and_compare_as_texts(layer):
    for n in range(12):
        await layer.write_event("a", "t", n)
    got, last = [], "0"
    while len(got) < 12:
        entries = await read(layer, last, 5)
        assert len(entries) <= 5
        got += entries
        last = entries[-1][0]
    ids = [identity for identity, _ in got]
    assert payloads(got) == list(range(12))
    assert ids == sorted(ids)
    for last in (ids[9], ids[9].decode()):
        assert payloads(await read(layer, last)) == [10, 11]
    for beginning in ("0", "0-0", b"0", b"0-0", 0):
        assert (await read(layer, beginning, 1))[0][0] == ids[0]
    assert len(await read(layer, count=1_000_000)) == 12


@pytest.mark.parametrize(
    "identity", ["1731234567890-0", b"1731234567890-12", "1731234567890", "0-42", 42]
)
async def test_an_id_of_the_old_stream_is_refused_and_the_way_told(layer, identity):
    await layer.write_event("a", "t", 1)
    with pytest.raises(InvalidInput, match=r"id of a Redis stream.*pgmem import-redis") as error:
        await layer.read_events(identity)
    assert isinstance(error.value, InvalidInput)


@pytest.mark.parametrize(
    "identity", ["secret", "", "-", ">", "0-٠", None, b"\xff", True, [], "1-1 "]
)
async def test_what_is_no_id_is_refused_and_not_repeated(layer, identity):
    with pytest.raises(InvalidInput, match="read_events takes") as error:
        await layer.read_events(identity)
    assert "secret" not in str(error.value)


async def test_an_id_of_a_longer_log_is_refused(layer):
    await layer.write_event("a", "t", 1)
    with pytest.raises(InvalidInput, match="no position of this log"):
        await layer.read_events("0-0000000000000000042")


@pytest.mark.parametrize("count", [0, -1, None, "5", 1.0])
async def test_a_count_that_is_none_is_refused(layer, count):
    with pytest.raises(InvalidInput, match="count"):
        await layer.read_events("0", count)


async def test_a_reader_waits_for_the_first_event(layers, layer):
    waiting = asyncio.create_task(read(layer))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    async with layers.open() as other:
        await other.write_event("a", "t", "first")
    assert payloads(await waiting) == ["first"]


async def test_a_dollar_is_what_comes_from_now_on(layers, layer):
    await layer.write_event("a", "t", "before")
    waiting = asyncio.create_task(read(layer, "$"))
    while not waiting.done():
        await layer.write_event("a", "t", "after")
        await asyncio.sleep(0.02)
    assert set(payloads(await waiting)) == {"after"}


async def test_closing_the_memory_ends_a_waiting_reader_with_an_error(layers):
    layer = layers.new()
    await layer.get_latest_state("a", "t")
    waiting = asyncio.create_task(layer.read_events())
    await asyncio.sleep(0.1)
    await layer.close()
    with pytest.raises(NotOpen, match="closed while it waited"):
        await asyncio.wait_for(waiting, SOON)
    with pytest.raises(NotOpen):
        await layer.read_events()


async def test_events_of_other_streams_are_none_of_its_own(layers, layer):
    with Memory(layers.url) as memory:
        memory.events.append("orders", Event(type="t", payload="other"))
        memory.events.append("agent:events", Event(type="t", payload="native"))
    ((_, fields),) = await read(layer)
    assert fields[b"payload"] == b'"native"'
    assert fields[b"agent_id"] == b"", "no agent was given"


async def test_payloads_are_what_json_makes_of_them(layer):
    await layer.write_event("a", "t", {"pair": (1, 2), 7: None})
    assert await layer.get_latest_state("a", "t") == {"pair": [1, 2], "7": None}
    assert payloads(await read(layer)) == [{"pair": [1, 2], "7": None}]


@pytest.mark.parametrize(
    "payload", [float("nan"), {"at": datetime(2024, 1, 1)}, b"bytes", {(1,): 1}, 2**64, "\0"]
)
async def test_what_json_cannot_hold_is_refused_and_nothing_is_written(layers, layer, payload):
    with pytest.raises(InvalidValue):
        await layer.write_event("a", "t", payload)
    assert await layer.get_latest_state("a", "t") == {}
    with Memory(layers.url) as memory:
        assert memory.events.count() == 0


@pytest.mark.parametrize("names", [("", "t"), ("a", ""), ("a" * 513, "t"), (None, "t"), ("a", 5)])
async def test_names_that_cannot_be_are_refused(layer, names):
    with pytest.raises(InvalidInput):
        await layer.write_event(*names, {})
    with pytest.raises(InvalidInput):
        await layer.get_latest_state(*names)


async def test_an_event_and_its_state_cost_one_round_trip(layers, tmp_path):
    relay = CuttingRelay(layers.url, tmp_path)
    async with layers.open(relay.url, work=lambda event: None) as layer:

        async def cost(call):
            before = relay.sent
            for n in range(10):
                await call(n)
            return (relay.sent - before) / 10

        async def write(n):
            await layer.write_event("a", "t", n)

        async def look(n):
            assert await layer.get_latest_state("a", "t") == 9

        async def update(n):
            await layer.update_with_version("r", lambda current: {"n": n})

        async def process(n):
            await layer.process_event({"id": f"{relay.sent}"})

        for call in (write, look, update, process):
            await cost(call)  # The first ones make a connection, and prepare what is sent often.
        assert await cost(write) == 1
        assert await cost(look) == 1
        assert await cost(update) == 2
        assert await cost(process) == 2
    relay.close()


# State


async def test_the_latest_state_is_that_of_an_agent_and_a_type(layers, layer):
    assert await layer.get_latest_state("a", "t") == {}
    for agent, kind, payload in [("a", "t", 1), ("b", "t", 2), ("a", "u", None), ("a", "t", 4)]:
        await layer.write_event(agent, kind, payload)
    assert await layer.get_latest_state("a", "t") == 4
    assert await layer.get_latest_state("b", "t") == 2
    assert await layer.get_latest_state("a", "u") is None
    with Memory(layers.url) as memory:
        assert memory.state.get("agent:state:a:t").value == 4


NAMES = [("a:b", "c"), ("a", "b:c"), ("a:b:c", "d"), ('["a', 'b"]'), ("[", "c"), ("a", "c")]


async def test_no_two_names_share_a_state(layers, layer):
    for n, names in enumerate(NAMES):
        assert await layer.get_latest_state(*names) == {}
        await layer.write_event(*names, n)
    assert [await layer.get_latest_state(*names) for names in NAMES] == list(range(len(NAMES)))
    with Memory(layers.url) as memory:
        assert len(memory.state.list()) == len(NAMES)


async def test_state_that_was_imported_is_found_until_it_is_written_anew(layers, layer):
    with Memory(layers.url) as memory:
        memory.state.put("agent:state:worker:1:done", "imported")
    assert await layer.get_latest_state("worker:1", "done") == "imported"
    await layer.write_event("worker:1", "done", "here")
    assert await layer.get_latest_state("worker:1", "done") == "here"


async def test_keys_can_be_other_ones(layers, layer):
    for name in ("eu", "us"):
        layer.wrapped.stream_key, layer.wrapped.state_key = f"{name}:events", f"{name}:state"
        await layer.write_event("a", "t", name)
    layer.wrapped.stream_key, layer.wrapped.state_key = "eu:events", "eu:state"
    ((stream, entries),) = await layer.read_events()
    assert (stream, payloads(entries)) == (b"eu:events", ["eu"])
    assert await layer.get_latest_state("a", "t") == "eu"


async def test_a_snapshot_can_be_restored_and_names_its_position(layers, layer):
    await layer.write_event("a", "t", "then")
    ((identity, _),) = await read(layer)
    await layer.take_snapshot()
    await layer.write_event("a", "t", "now")
    with Memory(layers.url) as memory:
        (snapshot,) = memory.state.snapshots.list("agent:state")
        assert f"0-{snapshot.position:019}".encode() == identity
        memory.state.snapshots.restore(snapshot.id)
    assert await layer.get_latest_state("a", "t") == "then"
