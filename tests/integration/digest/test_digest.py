"""`memory.digest` on a server, beside a plain model of what was written."""

from __future__ import annotations

import asyncio
import random

import pytest

from pgmem import AsyncMemory, Event, PositionTrimmed
from pgmem.errors import InvalidInput
from pgmem.state.fields import ABSENT, changed_fields
from tests.support.both import context
from tests.support.options import full

ROUNDS = 40 if full() else 6


async def head(memory):
    return await memory.events.head()


async def test_changes_of_an_entry_are_merged(both):
    await both.state.put("order:1", {"status": "open", "total": 5})
    since = await head(both)
    with context(both, agent_id="planner"):
        await both.state.put("order:1", {"status": "paid", "total": 5})
    with context(both, agent_id="critic"):
        entry = await both.state.put("order:1", {"status": "sent", "total": 5})
    digest = await both.digest(since)
    (changed,) = digest.entries
    assert (changed.before["status"], changed.after["status"]) == ("open", "sent")
    assert (changed.changes, changed.version, changed.position) == (2, 3, entry.position)
    assert changed.agents == ["critic", "planner"]
    assert [(f.path, f.before, f.after) for f in changed.fields] == [("$.status", "open", "sent")]
    assert digest.position >= entry.position
    assert digest.text == (
        f"Changes since position {since}:\n"
        f'- order:1 changed by critic, planner: $.status "open" -> "sent"'
    )
    again = await both.digest(digest.position)
    assert (again.entries, again.streams) == ([], [])


async def test_deletions_and_ends_are_told(both):
    await both.state.put("deleted", 1)
    await both.state.put("expired", 2)
    since = await head(both)
    await both.state.delete("deleted")
    await both.state.put("expired", 3, ttl=0.01)
    await both.state.put("kept", 4)
    await asyncio.sleep(0.02)
    told = {e.key: (e.existed, e.exists, e.before) for e in (await both.digest(since)).entries}
    assert told == {
        "deleted": (True, False, 1), "expired": (True, False, 2), "kept": (False, True, None),
    }  # fmt: skip


async def test_keys_prefix_and_streams_select(both):
    for key in ("a:1", "a:2", "b:1"):
        await both.state.put(key, 1)
    for stream in ("s", "t"):
        await both.events.append(stream, [Event(type="x"), Event(type="y")])

    async def told(**options):
        digest = await both.digest(0, **options)
        keys = sorted(entry.key for entry in digest.entries)
        return keys, sorted((news.stream, news.total) for news in digest.streams)

    assert await told() == (["a:1", "a:2", "b:1"], [("s", 2), ("t", 2)])
    assert await told(prefix="a:") == (["a:1", "a:2"], [])
    assert await told(keys=["b:1", "none"]) == (["b:1"], [])
    assert await told(streams="s") == ([], [("s", 2)])
    assert await told(prefix="b", streams=["t"]) == (["b:1"], [("t", 2)])


async def test_a_value_before_that_is_not_in_the_log_leaves_doubt(both):
    await both.state.put("k", 1, record=False)
    since = await head(both)
    await both.state.put("k", 2)
    (changed,) = (await both.digest(since)).entries
    assert (changed.certain, changed.before, changed.after) == (False, None, 2)


async def test_a_digest_of_trimmed_events_is_refused(both):
    for number in range(5):
        await both.events.append("s", Event(type="t", payload=number))
    await both.retention.trim("s", max_events=1)
    with pytest.raises(PositionTrimmed):
        await both.digest(1)
    assert (await both.digest(4)).streams[0].total == 1


async def test_more_entries_than_the_limit_are_counted(both, monkeypatch):
    monkeypatch.setattr("pgmem.digest.ops.MAX_ENTRIES", 2)
    for key in "abcd":
        await both.state.put(key, 1)
    digest = await both.digest(0)
    assert [entry.key for entry in digest.entries] == ["d", "c"]
    assert digest.entries_left_out == 2


class Paid(Event, type="paid"):
    amount: int


async def test_an_event_that_does_not_fit_its_class_is_told_as_it_is_stored(both, database_url):
    await both.events.append("s", Event(type="paid", payload={"amount": "much"}))
    async with AsyncMemory(database_url, events=[Paid]) as typed:
        await typed.events.append("s", Paid(amount=5))
        digest = await typed.digest(0)
    assert [event.payload for event in digest.streams[0].events] == [
        {"amount": 5}, {"amount": "much"},
    ]  # fmt: skip
    assert '- [1] paid by tester: {"amount":"much"}' in digest.text


async def test_an_event_of_its_own_is_a_change_of_the_entry(both):
    event = Event(type="budgeted", payload={"why": "sale"})
    await both.state.put("budget", 5, event=event, stream="money")
    digest = await both.digest(0)
    assert [(entry.key, entry.after) for entry in digest.entries] == [("budget", 5)]
    assert digest.streams == []


async def test_it_agrees_with_a_plain_model(both):
    rng = random.Random(20261130)
    plain: dict[str, object] = {}
    for _ in range(ROUNDS):
        before, since = dict(plain), await head(both)
        touched = set()
        for _ in range(rng.randrange(1, 9)):
            key = rng.choice("abc")
            touched.add(key)
            if rng.random() < 0.2:
                if not await both.state.delete(key):
                    touched.discard(key) if plain.get(key, before.get(key)) is None else None
                plain.pop(key, None)
            else:
                plain[key] = {name: rng.randrange(3) for name in rng.sample("xyz", 2)}
                await both.state.put(key, plain[key])
        digest = await both.digest(since)
        told = {entry.key: entry for entry in digest.entries}
        assert {k for k in "abc" if before.get(k) != plain.get(k)} <= set(told) <= touched
        for key, entry in told.items():
            old, new = before.get(key, ABSENT), plain.get(key, ABSENT)
            assert (entry.existed, entry.exists) == (old is not ABSENT, new is not ABSENT)
            assert list(entry.fields) == list(changed_fields(old, new))


@pytest.mark.parametrize(
    "options",
    [
        {"since": -1}, {"since": 0, "budget": 0}, {"since": 0, "keys": "abc"},
        {"since": 0, "count": 7}, {"since": 0, "keys": [""]}, {"since": 0, "streams": []},
    ],
)  # fmt: skip
async def test_bad_options_are_refused(both, options):
    with pytest.raises(InvalidInput):
        await both.digest(**options)
