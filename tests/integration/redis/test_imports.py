"""`Imports` imports the items of another store once, however often they are sent."""

import threading

import psycopg
import pytest

from pgmem import Memory
from pgmem.core.encoding import DEFAULT_MAX_BYTES as LIMIT
from pgmem.errors import InvalidInput
from pgmem.redis import ImportedEntry, ImportedEvent, ImportedRecord, Imports, batches
from pgmem.redis.errors import ImportConflict
from tests.support.both import imports as imports_of
from tests.support.cached import inner

SOURCE = "old store"
FIELD = b'{"redis":{"key":"h","field":"f"}}'
OTHER = b'{"redis":{"key":"other","field":"f"}}'


def events(*numbers, size=LIMIT):
    return batches.check_events(
        [ImportedEvent("t", b"%d" % n, "a", b'{"n":%d}' % n) for n in numbers], max_bytes=size
    )


def entries(*given):
    return batches.check_entries([ImportedEntry(*entry) for entry in given], max_bytes=LIMIT)


def records(*given):
    return batches.check_records([ImportedRecord(*record) for record in given], max_bytes=LIMIT)


async def opened(imports, part="stream s", target="s"):
    return await imports.open(SOURCE, part, target=target)


async def logged(memory, stream="s"):
    return [event.payload for event in await memory.events.read(stream)]


async def test_events_and_how_far_the_source_was_read_are_one_step(both, imports):
    part = await opened(imports)
    assert (part.cursor, part.done, part.detail) == ("", 0, {})
    part = await imports.append_events(part, events(1, 2), cursor="2-0", refused=3, detail={"x": 1})
    part = await imports.append_events(part, events(3), cursor="3-0")
    assert (part.cursor, part.done, part.refused, part.detail) == ("3-0", 3, 3, {"x": 1})
    found = await imports.get(SOURCE, "stream s")
    assert found._replace(updated_at=None) == part._replace(updated_at=None)
    assert await logged(both) == [1, 2, 3]
    (first, *_) = await both.events.read("s")
    assert (first.type, first.agent_id, first.metadata) == ("t", "a", {"n": 1})


async def test_an_event_without_an_agent_does_not_get_the_agent_of_the_memory(both, imports):
    batch = batches.check_events([ImportedEvent("t", b"1")], max_bytes=99)
    await imports.append_events(await opened(imports), batch, cursor="1")
    (event,) = await both.events.read("s")
    assert (event.agent_id, event.metadata) == (None, None)


async def test_only_the_last_opener_of_a_part_continues_it(both, imports):
    first = await imports.append_events(await opened(imports), events(1), cursor="1")
    second = await opened(imports)
    assert (second.cursor, second.done, second.step) == ("1", 1, 1)
    for verb in (
        imports.append_events(first, events(2), cursor="2"),
        imports.advance(first, cursor="2"),
        imports.put_entries(first, entries(("k", b"1", FIELD)), cursor="2"),
        imports.put_records(first, records(("k", "set")), cursor="2"),
    ):
        with pytest.raises(ImportConflict, match="another process has opened it since"):
            await verb
    assert await logged(both) == [1]
    assert await both.state.get("k") is None
    assert await imports.known_records() == []
    await imports.append_events(second, events(2), cursor="2")
    assert await logged(both) == [1, 2]


async def test_a_step_that_is_sent_again_is_made_once(both, imports):
    """After a lost answer, the statement is sent again."""
    part = await opened(imports)
    for _ in range(2):
        after = await imports.append_events(part, events(1, 2), cursor="2")
        assert (after.cursor, after.step) == ("2", 1)
    assert await logged(both) == [1, 2]
    put = entries(("mine", b"1", FIELD), ("theirs", b"1", FIELD))
    await both.state.put("theirs", 7)
    for _ in range(2):  # what could not be written is told again
        again, kept = await imports.put_entries(after, put, cursor="3")
        assert (again.step, kept) == (2, ["theirs"])
    assert (await both.state.get("mine")).version == 1
    with pytest.raises(ImportConflict):  # it is not the next step
        await imports.append_events(part._replace(step=0), events(9), cursor="9")


async def test_a_step_waits_for_the_one_before_and_two_at_once_are_one(both, imports, database_url):
    """Of two processes with one token, EvalPlanQual decides, not the snapshot."""
    part = await opened(imports)
    outcomes = []

    def step(number):
        with Memory(database_url) as memory:
            try:
                Imports(memory).append_events(part, events(number), cursor=str(number))
                outcomes.append(number)
            except ImportConflict:
                outcomes.append(None)

    with psycopg.connect(database_url) as blocker:
        blocker.execute("SELECT * FROM pgmem.imports FOR UPDATE")
        threads = [threading.Thread(target=step, args=(n,)) for n in (1, 2)]
        for thread in threads:
            thread.start()
        blocker.commit()
    for thread in threads:
        thread.join()
    stored = await imports.get(SOURCE, "stream s")
    assert stored.step == 1
    # Both have the token, so the second finds the step made.
    assert len(await logged(both)) == 1
    assert sorted(outcomes) == [1, 2]


async def test_a_stream_is_filled_by_one_part_only(imports):
    await opened(imports)
    with pytest.raises(ImportConflict, match="'s' is filled by 'stream s' of the import 'old"):
        await imports.open("another", "stream s", target="s")
    with pytest.raises(ImportConflict, match="for 't': its target so far is 's'"):
        await opened(imports, target="t")
    assert [part.source for part in await imports.list()] == [SOURCE]
    assert await imports.list("another") == []
    # Many parts may fill none.
    for source in ("a", "b"):
        await imports.open(source, "hashes")


async def test_entries_are_written_when_missing_or_changed_by_their_origin(both, imports):
    part = await opened(imports, "hashes", None)
    given = [("a", b'{"n": 1}', FIELD), ("b", b"2", FIELD, 60.0)]
    part, kept = await imports.put_entries(part, entries(*given), cursor="1")
    assert (kept, part.done) == ([], 2)
    a, b = await both.state.get("a"), await both.state.get("b")
    assert (a.value, a.version, a.expires_at) == ({"n": 1}, 1, None)
    assert 55 < (b.expires_at - b.updated_at).total_seconds() <= 60
    # The same again changes nothing; another value or end does.
    part, kept = await imports.put_entries(part, entries(*given), cursor="2")
    assert [(await both.state.get(key)).version for key in "ab"] == [1, 1]
    given = [("a", b"5", FIELD), ("b", b"2", FIELD, 90.0)]
    part, kept = await imports.put_entries(part, entries(*given), cursor="3", slack=0.5)
    assert [(await both.state.get(key)).version for key in "ab"] == [2, 1]
    part, kept = await imports.put_entries(part, entries(*given), cursor="4", done=0)
    assert [(await both.state.get(key)).version for key in "ab"] == [2, 2]
    assert (kept, part.done) == ([], 6)
    history = await both.state.history("a")
    assert [(event.type, event.change.value) for event in history] == [
        ("state.imported", {"n": 1}),
        ("state.imported", 5),
    ]
    assert history[0].metadata == {"redis": {"key": "h", "field": "f"}}
    assert history[0].stream == "state:a"


async def test_entries_of_another_writer_stay_and_are_returned(both, imports):
    part = await opened(imports, "hashes", None)
    part, _ = await imports.put_entries(
        part, entries(("a", b"1", FIELD), ("b", b"1", FIELD), ("c", b"1", FIELD)), cursor="1"
    )
    await both.state.put("a", 7)
    await both.state.put("b", 8, record=False)
    await both.state.delete("c")
    again = entries(("a", b"2", FIELD), ("b", b"2", FIELD), ("c", b"2", FIELD))
    part, kept = await imports.put_entries(part, again, cursor="2")
    assert kept == ["a", "b"]
    values = await both.state.get_many(["a", "b", "c"])
    assert [(values[key].value, values[key].version) for key in "abc"] == [(7, 2), (8, 2), (2, 3)]
    # Another origin changes nothing. An equal value from another origin is not reported.
    collide = entries(("c", b"3", OTHER), ("d", b"1", OTHER))
    part, kept = await imports.put_entries(part, collide, cursor="3")
    assert kept == ["c"]
    part, kept = await imports.put_entries(part, entries(("c", b"2", OTHER)), cursor="4")
    assert kept == []


async def test_an_expired_entry_is_overwritten(both, imports, database_url):
    await both.state.put("k", 1, ttl=0.001)
    part = await opened(imports, "hashes", None)
    part, kept = await imports.put_entries(part, entries(("k", b"2", FIELD)), cursor="1")
    assert (kept, (await both.state.get("k")).value) == ([], 2)


async def test_a_copy_in_the_cache_does_not_outlive_an_import(form, imports):
    async with form.memory(cache=10) as memory:
        imports = imports_of(memory)
        part = await opened(imports, "hashes", None)
        part, _ = await imports.put_entries(part, entries(("k", b"1", FIELD)), cursor="1")
        assert (await memory.state.get("k")).value == 1
        part, _ = await imports.put_entries(part, entries(("k", b"2", FIELD)), cursor="2")
        assert (await memory.state.get("k")).value == 2


async def test_recorded_work_is_skipped_with_its_result(both, imports):
    part = await opened(imports, "sets", None)
    batch = records(("done", "set p"), ("told", "string", b'{"ok": true}'))
    part, kept = await imports.put_records(part, batch, cursor="1")
    assert (kept, part.done) == ([], 2)

    def never():
        raise AssertionError("it ran")

    assert await both.dedupe.run_once("done", never) == ("skipped", None)
    assert await both.dedupe.run_once("told", never) == ("skipped", {"ok": True})
    async with both.transaction() as tx:
        assert (await tx.dedupe.run_once("done", never)).status == "skipped"
    assert not (await both.dedupe.claim("done")).acquired
    known = {record.key: record for record in await imports.known_records()}
    assert (known["told"].origin, known["told"].result) == ("string", {"ok": True})
    assert (known["done"].origin, known["done"].ttl) == ("set p", None)


async def test_an_expired_record_can_be_claimed(both, imports, database_url):
    part = await opened(imports, "sets", None)
    await imports.put_records(part, records(("k", "set p", None, 60.0)), cursor="1")
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE pgmem.dedupe SET expires_at = clock_timestamp()")
    assert await imports.known_records() == []
    assert (await both.dedupe.run_once("k", lambda: 5)) == ("processed", 5)


async def test_records_follow_their_origin_and_keep_work_done_in_pgmem(both, imports):
    part = await opened(imports, "sets", None)
    await both.dedupe.run_once("here", lambda: 1)
    claim = await both.dedupe.claim("busy")
    first = records(("a", "set p", None, 60.0), ("here", "set p"), ("busy", "set p"))
    part, kept = await imports.put_records(part, first, cursor="1")
    assert kept == ["busy"]  # claimed here, although done in the other store
    assert await both.dedupe.run_once("here", lambda: 2) == ("skipped", 1)
    await both.dedupe.complete(claim, "mine")
    part, kept = await imports.put_records(part, records(("busy", "set p")), cursor="2")
    assert kept == []
    # Another set with the same member is another matter: not silently the same work.
    part, kept = await imports.put_records(part, records(("a", "set q")), cursor="3")
    assert kept == ["a"]
    part, kept = await imports.put_records(part, records(("a", "set p", None, 90.0)), cursor="4")
    known = {record.key: record for record in await imports.known_records(["a", "here", "none"])}
    assert kept == []
    assert set(known) == {"a", "here"}
    assert 80 < known["a"].ttl <= 90
    assert known["here"].origin is None


async def test_only_records_of_imports_can_be_deleted(both, imports):
    part = await opened(imports, "sets", None)
    await both.dedupe.run_once("here", lambda: 1)
    await imports.put_records(part, records(("a", "set p"), ("b", "set p")), cursor="1")
    known = await imports.known_records()
    assert [record.key for record in known] == ["a", "b", "here"]
    assert [record.key for record in await imports.known_records(after="a", limit=1)] == ["b"]
    assert await imports.delete_records([record for record in known if record.key != "b"]) == 1
    assert [record.key for record in await imports.known_records()] == ["b", "here"]


async def test_known_entries_have_the_origin_of_their_import(both, imports):
    part = await opened(imports, "hashes", None)
    given = entries(("a", b"1", FIELD), ("b", b"2", OTHER, 60.0), ("c", b"3", FIELD))
    await imports.put_entries(part, given, cursor="1")
    await both.state.put("c", 4)
    await both.state.put("d", 5)
    known = await imports.known_entries()
    assert [(entry.key, entry.value, entry.version) for entry in known] == [
        ("a", 1, 1),
        ("b", 2, 1),
        ("c", 4, 2),
        ("d", 5, 1),
    ]
    assert [entry.origin and entry.origin["redis"]["key"] for entry in known] == [
        "h",
        "other",
        None,
        None,
    ]
    assert 55 < known[1].ttl <= 60
    assert [entry.key for entry in await imports.known_entries(after="a", limit=2)] == [
        "b",
        "c",
    ]


def test_refused_items_are_returned_by_index():
    given = [
        ImportedEvent("t", b'{"n": 1}'),
        ImportedEvent("t", b"no json"),
        ImportedEvent("", b"1"),
        ImportedEvent("t", b"1", "\ud800"),
        ImportedEvent("t", b'"%s"' % (b"x" * 100)),
        ImportedEvent("t", b'"\\u0000"'),
        ImportedEvent("t", b'"\\\\u0000"'),
        ImportedEvent("t", b"123456789012345678901234567890"),
        ImportedEvent("t", b"0.1234567890123456789012345"),
        ImportedEvent("t", b"18446744073709551615"),
        ImportedEvent("t", b"NaN"),
        ImportedEvent("t", b"1e999"),
        ImportedEvent("t", b"1", None, b'{"\\u0000": 1}'),
        ImportedEvent("t", b'"\xff"'),
        ImportedEvent("t", b'"\\ud800"'),
        ImportedEvent("x" * 513, b"1"),
    ]
    batch = batches.check_events(given, max_bytes=99)
    places = {refusal.place for refusal in batch.refused}
    assert [event.payload for place, event in enumerate(given) if place not in places] == [
        b'{"n": 1}',
        b'"\\\\u0000"',
        b"0.1234567890123456789012345",
        b"18446744073709551615",
    ]
    reasons = " | ".join(refusal.reason for refusal in batch.refused)
    for words in ("it is no JSON", "is empty", "lone surrogate", "102 bytes", "NUL", "64 bits"):
        assert words in reasons
    assert "no json" not in reasons  # a reason contains no payload
    assert batch.size == 4


def test_texts_that_are_json_only_together_are_refused():
    """Check texts of which one closes what another leaves open."""
    texts = [b"[1", b"2]", b"3,4", b'"a', b'b"', b"", b"5", b'{"a":1', b'"b":2}', b"6 7", b"null"]
    batch = batches.check_events([ImportedEvent("t", text) for text in texts], max_bytes=99)
    assert batch.columns["payloads"].cells == [b"5", b"null"]
    assert [refusal.place for refusal in batch.refused] == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    joined = [b"[1", b"2]", b"3,4"]  # as many values as texts, if nothing stood between them
    assert (
        batches.check_events([ImportedEvent("t", text) for text in joined], max_bytes=99).size == 0
    )


def test_two_origins_of_one_key_in_a_step_are_refused():
    batch = entries(("k", b"1", FIELD), ("k", b"2", OTHER), ("k", b"3", FIELD))
    assert (batch.size, [refusal.place for refusal in batch.refused]) == (1, [1])
    assert batch.columns["values"].cells == [b"3"]
    assert "two different origins" in batch.refused[0].reason
    assert records(("k", "a"), ("k", "b")).refused[0].place == 1


async def test_bad_options_are_refused_before_anything_is_sent(imports):
    for source, part, target in (("", "p", None), ("s", "x" * 529, None), ("s", "p", "state:x")):
        with pytest.raises(InvalidInput):
            await imports.open(source, part, target=target)
    with pytest.raises(InvalidInput, match="without a target"):
        await imports.append_events(await opened(imports, "p", None), events(1), cursor="")
    with pytest.raises(InvalidInput, match="must be 0 to 10000"):
        events(*range(10_001))
    assert [part.part for part in await imports.list()] == ["p"]


async def test_json_that_was_given_is_kept_as_it_is(both, imports, database_url):
    text = b'{"b" : 1.50, "a":"\\u00e9\\u00e9"}'
    batch = inner(imports).check_events([ImportedEvent("t", text)])
    await imports.append_events(await opened(imports), batch, cursor="1")
    with psycopg.connect(database_url) as connection:
        stored = connection.execute("SELECT payload::text FROM pgmem.events").fetchone()[0]
    assert stored.encode() == text


async def test_an_import_notifies_subscribers(form, imports):
    async with (
        form.memory() as reader,
        form.memory() as memory,
        reader.events.subscribe("s", after="now") as followed,
    ):
        imports = imports_of(memory)
        await imports.append_events(await opened(imports), events(1, 2), cursor="2")
        found = await followed.receive(2, timeout=5)
        assert [event.payload for event in found] == [1, 2]
