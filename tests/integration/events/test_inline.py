"""Pages and inlined events: what they hold, what is refused, how much is asked for."""

from __future__ import annotations

import random
from datetime import UTC

import orjson
import psycopg
import pytest

from pgmem import Event, Memory
from pgmem.core.statements import INLINE_ALL
from pgmem.core.statements import source as statement_source
from pgmem.events.codec import INLINE_BYTES, Codec, encode_event, fits_inline
from pgmem.events.filter import EventFilter
from pgmem.events.inline import parse_inline
from pgmem.events.ops import append_many
from pgmem.events.page import PAGE_FIRST, PAGE_MOST, PageSize, row_bytes
from tests.support.rows import MOMENT, row

EVENT = [5, "s", None, "t", "null", None, None, MOMENT.isoformat(), *[None] * 5]


def payload(*, form=1, **changes):
    content = list(EVENT)
    for at, value in changes.items():
        content[int(at.removeprefix("_"))] = value
    return orjson.dumps([form, content]).decode()


def test_an_inlined_event_is_the_row_of_its_event():
    assert parse_inline(payload()) == [row(5)]


def test_several_inlined_events_are_the_rows_of_their_events():
    text = orjson.dumps([1, EVENT, [6, *EVENT[1:]]]).decode()
    assert parse_inline(text) == [row(5), row(6)]
    assert parse_inline(orjson.dumps([1, EVENT, []]).decode()) is None


@pytest.mark.parametrize(
    "text",
    ["", "bell", "{}", "[]", "null", "1", '"x"', "[1]", "[1,", payload()[:-3], payload(form=2)],
)
def test_an_unknown_payload_is_a_bare_notification(text):
    assert parse_inline(text) is None


@pytest.mark.parametrize("value", [{}, [], "no", 7.5, 7, True, None, -1, "2026-13-01"])
def test_a_spoofed_payload_is_a_valid_row_or_a_bare_notification(value):
    """Notify with any text, as a role that knows the channel can: the follower goes on."""
    for column in range(13):
        rows = parse_inline(payload(**{f"_{column}": value}))
        if rows is not None:
            (opened,) = rows
            assert type(opened[0]) is int
            assert all(type(opened[at]) is str for at in (1, 3, 4))
            assert opened[7].tzinfo is UTC
            assert row_bytes(opened) > 0


def test_pages_grow_and_shrink_with_the_size_of_what_was_read():
    size = PageSize()
    assert size.limit == PAGE_FIRST
    size.learn([])
    assert size.limit == PAGE_FIRST
    for _ in range(10):
        size.learn([row(1)] * size.limit)
    assert size.limit == PAGE_MOST
    size.learn([row(1, payload="x" * 10**6)] * 10)
    assert 1 <= size.limit <= 5
    size.learn([row(1, payload="x" * 10**8)])
    assert size.limit == 1
    size.learn([row(1)])
    assert size.limit == 2


# Each character with the longest form that JSON, or JSON within JSON, gives it.
WORST = ["\x01", '"', "\\", "\x7f", "é", "\u2028", "漢", "😀", "a", "\n"]


@pytest.mark.parametrize("character", WORST)
@pytest.mark.parametrize("where", ["payload", "metadata", "names"])
def test_the_largest_inlined_event_is_accepted(memory, where, character):
    def event(length):
        text = character * length
        if where == "payload":
            return "s", Event(type="t", payload=text, agent_id="a")
        if where == "metadata":
            return "s", Event(type="t", payload=0, metadata={"m": text}, agent_id="a")
        name = character * min(length, 512 // len(character.encode()))
        return name, Event(type=name, payload="x" * (length - len(name)), agent_id=name)

    def fits(length):
        stream, made = event(length)
        return fits_inline(stream, encode_event(made, Codec()))

    low, high = 0, 10_000
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    for length in (low, low + 1):
        stream, made = event(length)
        memory.events.append(stream, made)
    assert memory.events.count() == 2


def test_an_inlined_event_is_never_longer_than_the_server_takes(database_url):
    """Measure the payload of random events that are close to the limit."""
    rng = random.Random(3)
    longest = 0
    with Memory(database_url) as memory, psycopg.connect(database_url, autocommit=True) as link:
        for _ in range(200):
            alphabet = rng.sample(WORST, rng.randrange(1, 4))
            names = ["".join(rng.choices(alphabet, k=rng.randrange(1, 60))) for _ in range(3)]
            text = "".join(rng.choices(alphabet, k=rng.randrange(INLINE_BYTES)))
            made = Event(type=names[1], payload=text, agent_id=names[2])
            if not fits_inline(names[0], encode_event(made, Codec())):
                continue
            position = memory.events.append(names[0], made).position
            query = statement_source("event_inline").split("\n", 1)[1]
            (sent,) = link.execute(
                f"SELECT json_build_array(1, {query})::text FROM pgmem.events AS event "
                f"WHERE position = {position}"
            ).fetchone()
            longest = max(longest, len(sent.encode()))
            assert parse_inline(sent)[0][4] == orjson.dumps(text).decode()
    assert 3_000 < longest < 8_000


def test_events_inlined_together_are_never_longer_than_the_server_takes(database_url):
    """Append random batches that are close to the limit: the server refuses none."""
    rng = random.Random(4)
    inlined = 0
    with Memory(database_url) as memory:
        for _ in range(200):
            alphabet = rng.sample(WORST, rng.randrange(1, 4))
            count = rng.randrange(2, 12)
            made = [
                Event(
                    type="".join(rng.choices(alphabet, k=rng.randrange(1, 20))),
                    payload="".join(rng.choices(alphabet, k=rng.randrange(3_000 // count))),
                    agent_id="".join(rng.choices(alphabet, k=rng.randrange(1, 20))),
                )
                for _ in range(count)
            ]
            inlined += INLINE_ALL in append_many("s", made, Codec()).fragments
            memory.events.append("s", made)
            memory.state.put_many(
                {f"{event.type}{n}": event.payload for n, event in enumerate(made)}
            )
    assert 20 < inlined < 180


NAMES = ["a", "ab", "abc", "b", "é", "éa", "\U0010ffff", "\U0010ffffa", "\ud7ff", "\ue000", "z"]


def selections(rng):
    yield EventFilter()
    yield EventFilter(prefix="")
    yield EventFilter(key_prefix="")
    for name in NAMES:
        yield EventFilter.of(name)
        yield EventFilter(prefix=name)
        yield EventFilter(key_prefix=name)
        yield EventFilter.of(type=name)
        yield EventFilter.of(agent_id=name)
        yield EventFilter.of(f"state:{name}")
    for _ in range(60):
        chosen = {}
        if rng.random() < 0.5:
            chosen["types"] = rng.sample(NAMES, rng.randrange(1, 3))
        if rng.random() < 0.5:
            chosen["agents"] = rng.sample(NAMES, rng.randrange(1, 4))
        kind = rng.randrange(4)
        if kind == 1:
            chosen["streams"] = rng.sample(NAMES, rng.randrange(1, 5))
        elif kind > 1:
            chosen[["prefix", "key_prefix"][kind - 2]] = rng.choice(NAMES)
        yield EventFilter(**chosen)


def test_a_filter_selects_the_same_rows_in_sql_and_in_python(memory):
    rng = random.Random(5)
    for _ in range(200):
        event = Event(type=rng.choice(NAMES), agent_id=rng.choice([None, *NAMES]))
        memory.events.append(rng.choice(NAMES), event)
    for name in NAMES:
        memory.state.put(name, 1)
        memory.state.put(name, 2, event=Event(type=name), stream=rng.choice(NAMES))
    from pgmem.events.page import NEVER, read_page

    def read(selection):
        page = memory._executor.execute(read_page(selection, limit=1000, since=NEVER))
        return page.rows

    everything = read(EventFilter())
    assert len(everything) == 200 + 2 * len(NAMES)
    some = 0
    for selection in selections(rng):
        test = selection.test() or (lambda row: True)
        found = read(selection)
        assert found == [row for row in everything if test(row)], selection
        some += 0 < len(found) < len(everything)
    assert some > 60


def test_the_size_of_a_row_counts_every_text_whatever_else_it_holds():
    small = row_bytes(row(1))
    for column in (4, 6, 11):
        large = list(row(1))
        large[column] = "x" * 10_000
        assert row_bytes(tuple(large)) >= small + 9_000
    deleted = list(row(1))
    deleted[10] = True
    assert row_bytes(tuple(deleted)) == small
