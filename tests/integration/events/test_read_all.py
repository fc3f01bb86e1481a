"""Without a limit a read returns everything, page by page."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from pgmem import Event, InvalidEvent, InvalidInput
from pgmem.core.paging import PAGE
from tests.support.both import module_name

COUNT = 250


@pytest.fixture(params=["one page", "many pages", "last page full"])
def pages(request, monkeypatch):
    """Read pages of several sizes, in both forms."""
    size = {"one page": PAGE, "many pages": 7, "last page full": 50}[request.param]
    for form in ("async", "sync"):
        for name in ("core.paging", "events.verbs", "state.reads"):
            monkeypatch.setattr(f"{module_name(form, name)}.PAGE", size)


async def append(memory, count=COUNT):
    await memory.events.append(
        "s", [Event(type="t", payload=n + 1) for n in range(count)], expected_version=0
    )


def payloads(events):
    return [event.payload for event in events]


async def test_reading_without_a_limit_reads_all_events(both, pages):
    await append(both)
    everything = list(range(1, COUNT + 1))
    assert payloads(await both.events.read("s")) == everything
    assert payloads(await both.events.read("s", limit=None, reverse=True)) == everything[::-1]
    assert payloads(await both.events.read("s", after=20, until=240)) == everything[20:240]
    assert payloads(await both.events.read("s", timeout=5)) == everything
    assert payloads(await both.events.read_stream("s")) == everything
    assert payloads(await both.events.read_stream("s", reverse=True)) == everything[::-1]
    found = await both.events.read_stream("s", after_version=20, until_version=240)
    assert payloads(found) == everything[20:240]
    async with both.transaction() as tx:
        assert payloads(await tx.events.read("s")) == everything
        assert payloads(await tx.events.read("s", reverse=True)) == everything[::-1]
        assert payloads(await tx.events.read_stream("s")) == everything
    async with both.optimistic() as tx:
        assert payloads(await tx.events.read("s")) == everything
        assert payloads(await tx.events.read_stream("s")) == everything


async def test_reading_without_a_limit_reads_all_entries(both, pages):
    keys = [f"key:{n:03}" for n in range(COUNT)]
    await both.state.put_many({key: n for n, key in enumerate(keys)})
    await both.state.put("other", 1)

    def names(entries):
        return [entry.key for entry in entries]

    assert names(await both.state.list("key:")) == keys
    assert names(await both.state.list("key:", after="key:019", limit=None)) == keys[20:]
    assert names(await both.state.search("key:")) == keys
    assert names(await both.state.search("key:", offset=20)) == keys[20:]
    assert names(await both.state.search("key:", reverse=True)) == keys[::-1]
    assert len(await both.state.search("key:", order="updated_at")) == COUNT
    assert await both.state.keys("key:") == keys
    assert await both.state.keys("key:", separator=":", depth=2) == keys
    async with both.transaction() as tx:
        assert names(await tx.state.list("key:")) == keys
        assert await tx.state.keys("key:", after="key:019") == keys[20:]
    async with both.optimistic() as tx:
        assert names(await tx.state.search("key:")) == keys


async def test_a_history_without_a_limit_is_whole(both, pages):
    await append(both, 20)
    for n in range(30):
        await both.state.put("key", n)
    assert payloads(await both.state.history("key")) == list(range(30))
    assert payloads(await both.state.history("key", after=10)) == list(range(10, 30))


async def test_listing_what_is_open_in_a_group_lists_all_of_it(both, pages):
    await append(both)
    group = await both.groups.create("billing")
    deliveries = await group.read("w", limit=COUNT)
    assert len(await group.pending()) == COUNT
    assert len(await group.pending(3)) == 3
    await group.dead_letter(deliveries)
    positions = [one.position for one in await group.dead_letters()]
    assert positions == list(range(1, COUNT + 1))
    assert [one.position for one in await group.dead_letters(after=240)] == positions[240:]
    assert len(await group.dead_letters(limit=3)) == 3


async def test_a_limit_is_a_limit(both, pages):
    await append(both)
    assert payloads(await both.events.read("s", limit=3)) == [1, 2, 3]
    assert payloads(await both.events.read("s", limit=3, reverse=True)) == [250, 249, 248]
    assert payloads(await both.events.read_stream("s", limit=3)) == [1, 2, 3]
    for wrong in (0, 100_001, "3", True):
        for read in (both.events.read, both.events.read_stream, both.state.list):
            with pytest.raises(InvalidInput, match="limit"):
                await read("s", limit=wrong)


async def test_reading_everything_ends_while_a_writer_appends(database_url, form, monkeypatch):
    """Append a page for each page that is read."""
    for name in ("core.paging", "events.verbs"):
        monkeypatch.setattr(f"{module_name(form.name, name)}.PAGE", 5)
    async with form.memory() as memory, form.memory() as other:
        await append(memory, 20)
        reader = getattr(memory.events, "wrapped", memory.events)._reader
        read_now, pages = reader.read_now, []

        if form.name == "async":

            async def read_and_append(*args, **options):
                pages.append(1)
                page = await read_now(*args, **options)
                await other.events.append("s", [Event(type="t")] * 5)
                return page
        else:

            def read_and_append(*args, **options):
                pages.append(1)
                page = read_now(*args, **options)
                other.wrapped.events.append("s", [Event(type="t")] * 5)
                return page

        monkeypatch.setattr(reader, "read_now", read_and_append)
        found = await memory.events.read("s")
    # Up to the head after the first page, at which the writer had appended once.
    assert [event.position for event in found] == list(range(1, 26))


class Payload(BaseModel):
    n: int


async def test_a_read_leaves_out_what_does_not_fit_and_says_so(both, pages, caplog):
    for n in range(20):
        payload = {"n": n if n % 10 else "secret-value"}
        await both.events.append("s", Event(type="t", payload=payload), expected_version=n)
    fitting = [n for n in range(20) if n % 10]
    found = await both.events.read("s", model=Payload)
    assert [event.payload.n for event in found] == fitting
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 2
    assert "position 11 " in said[1]
    assert "secret-value" not in "".join(said)
    async with both.transaction() as tx:
        assert len(await tx.events.read("s", model=Payload, reverse=True)) == 18
        with pytest.raises(InvalidEvent):
            await tx.events.read("s", model=Payload, on_invalid="raise")
    with pytest.raises(InvalidEvent) as failure:
        await both.events.read("s", model=Payload, on_invalid="raise")
    assert failure.value.position == 1
    with pytest.raises(InvalidEvent):  # What is computed from a stream needs all of it.
        await both.events.read_stream("s", model=Payload)
    with pytest.raises(InvalidInput, match="'skip' or 'raise'"):
        await both.events.read("s", on_invalid="dead_letter")


async def test_a_subscription_goes_through_everything_in_batches(both):
    """Also where a whole batch does not fit its model, and a read of one page gives nothing."""
    wrong = [Event(type="t", payload="wrong")] * 30
    right = [Event(type="t", payload={"n": n}) for n in range(45)]
    await both.events.append("s", [*right[:5], *wrong, *right[5:]])
    assert await both.events.read("s", after=5, limit=10, model=Payload) == []
    found = []
    async with both.events.subscribe("s", after=0, model=Payload) as events:
        while batch := await events.receive(10, timeout=0):
            assert len(batch) <= 10
            found += [event.payload.n for event in batch]
    assert found == list(range(45))
