"""Streams are imported in order with their ids, each entry once, and gaps are reported."""

from __future__ import annotations

import json

import pytest

from pgmem import Event
from pgmem.errors import InvalidInput
from pgmem.redis.errors import ImportConflict, SourceError
from pgmem.redis.importing.streams import Info
from tests.system.redis.importing.support import fill, numbers, published


def test_a_stream_comes_with_its_order_ids_and_fields(source, importing, memory):
    fill(source, 2_500)
    report = importing.run()
    events = memory.events.read("agent:events", limit=10_000)
    assert [event.payload["n"] for event in events] == list(range(1, 2_501))
    assert [event.metadata["redis"]["id"] for event in events] == [
        f"{n}-0" for n in range(1, 2_501)
    ]
    first = events[0]
    assert (first.type, first.agent_id) == ("payment.validated", "validator")
    assert first.metadata["redis"]["fields"] == {"timestamp": "2026-11-22T10:00:00"}
    assert report.complete
    assert report.streams[b"agent:events"].done == 2_500


def test_a_second_run_continues_where_the_first_ended(source, importing, memory):
    fill(source, 10)
    importing.run()
    importing.run()
    fill(source, 10, first=11)
    importing.run()
    assert numbers(memory) == list(range(1, 21))
    assert importing.compared().same == 20


def test_streams_are_chosen_and_named(source, importing, memory):
    for stream in ("in:1", "in:2", "other"):
        fill(source, 2, stream)
    report = importing.run(streams=["in:*=from:{key}"])
    assert set(report.streams) == {b"in:1", b"in:2"}
    assert numbers(memory, "from:in:1") == numbers(memory, "from:in:2") == [1, 2]
    assert memory.events.count("other") == 0
    assert report.survey.left == {"stream": (1, ["other"])}


BAD = {
    "no JSON": ({"payload": "{nope"}, "it is no JSON"),
    "NaN": ({"payload": "NaN"}, "it is no JSON"),
    "binary": ({"payload": b"\xff\xfe"}, "no JSON"),
    "NUL": ({"payload": '"\\u0000"'}, "NUL"),
    "too many bits": ({"payload": str(10**30)}, "more than 64 bits"),
    "too large": ({"payload": json.dumps("x" * 2**20)}, "1048576 are allowed"),
    "a lone surrogate": ({"payload": '"\\ud800"'}, "no JSON"),
    "NUL in another field": ({"timestamp": "a\0b"}, "NUL"),
    "a binary field": ({"timestamp": b"\xff"}, "field 'timestamp' is not UTF-8"),
    "a long type": ({"event_type": "t" * 513}, "513 bytes"),
    "NUL in the agent": ({"agent_id": "a\0"}, "NUL"),
}


def test_bad_entries_are_listed_with_their_bytes_and_the_rest_is_imported(
    source, importing, memory
):
    for number, (fields, _) in enumerate(BAD.values()):
        source.xadd("agent:events", published(2 * number), id=f"{2 * number + 1}-0")
        source.xadd("agent:events", published(0, **fields), id=f"{2 * number + 2}-0")
    source.execute_command("XADD", "agent:events", "99-0", "a", "1", "a", "2")
    report = importing.run()
    assert numbers(memory) == [2 * number for number in range(len(BAD))]
    refused = importing.refused()
    assert {name for _, _, name, _ in refused} == {
        *(f"{2 * number + 2}-0" for number in range(len(BAD))),
        "99-0",
    }
    reasons = {name: reason for _, _, name, reason in refused}
    for number, (_, why) in enumerate(BAD.values()):
        assert why in reasons[f"{2 * number + 2}-0"]
    assert "repeated" in reasons["99-0"]
    assert [b"a", b"1", b"a", b"2"] in importing.raw()
    assert not report.complete
    assert report.refused == report.streams[b"agent:events"].refused == len(BAD) + 1
    assert (importing.file.stat().st_mode & 0o777) == 0o600
    found = importing.compared()
    assert (found.refused, found.equal) == (len(BAD) + 1, True)
    assert len(importing.refused()) == len(BAD) + 1  # listed once


def test_payloads_may_be_texts(source, importing, memory):
    source.xadd("s", {"type": "t", "payload": "hello"}, id="1-0")
    source.xadd("s", {"type": "t", "payload": "5"}, id="2-0")
    importing.run(values="auto")
    assert [event.payload for event in memory.events.read("s")] == ["hello", 5]
    assert importing.compared(values="auto").equal


def test_large_entries_come_in_small_pages(source, importing, memory):
    for n in range(30):
        source.xadd("s", {"payload": json.dumps("x" * 600_000), "type": str(n)})
    with importing.opened() as importer:
        importer.begin()
        importer.open_streams_found()
        (stream,) = importer.streams.values()
        stream._count = 20
        stream.drain()
        importer.context.writer.wait()
        assert stream._count == 10
    assert [event.type for event in memory.events.read("s")] == [str(n) for n in range(30)]


# --- trimmed while it is imported -------------------------------------------------------------


def half(importing, count):
    """Import the first entries of a stream and stop."""
    with importing.opened() as importer:
        importer.begin()
        importer.open_streams_found()
        (stream,) = importer.streams.values()
        stream._count = count
        stream.drain(most=count)
        importer.finished()


def gaps(importing):
    return [(name, reason) for kind, _, name, reason in importing.refused() if kind == "gap"]


def test_entries_that_were_trimmed_unread_are_counted_and_listed(source, importing, memory):
    fill(source, 100)
    half(importing, 20)
    source.xtrim("agent:events", maxlen=50, approximate=False)
    report = importing.run()
    assert numbers(memory) == [*range(1, 21), *range(51, 101)]
    assert report.missed == {b"agent:events": 30}
    assert not report.complete
    ((name, reason),) = gaps(importing)
    assert name == "20-0"
    assert "30 entries between 20-0 and 51-0 were trimmed" in reason
    # It is known from now on, and the next one is counted too.
    source.xtrim("agent:events", maxlen=10, approximate=False)
    fill(source, 5, first=101)
    assert importing.run().missed == {b"agent:events": 30}
    source.xtrim("agent:events", maxlen=0, approximate=False)
    fill(source, 3, first=106)
    source.xtrim("agent:events", maxlen=1, approximate=False)
    assert importing.run().missed == {b"agent:events": 32}


def test_what_was_trimmed_after_it_was_read_is_no_gap(source, importing, memory):
    fill(source, 100)
    importing.run()
    source.xtrim("agent:events", maxlen=0, approximate=False)
    fill(source, 5, first=101)
    report = importing.run()
    assert numbers(memory) == list(range(1, 106))
    assert report.complete
    assert gaps(importing) == []
    assert importing.compared().only_here == 100


def test_a_stream_trimmed_to_nothing_is_seen_though_nothing_comes(source, importing):
    fill(source, 30)
    half(importing, 10)
    source.xtrim("agent:events", maxlen=0, approximate=False)
    report = importing.run()
    assert report.missed == {b"agent:events": 20}
    assert "20 entries between 10-0 and the end" in gaps(importing)[0][1]
    assert importing.run().missed == {b"agent:events": 20}
    assert len(gaps(importing)) == 1


def test_an_entry_taken_out_alone_is_no_gap(source, importing, memory):
    fill(source, 30)
    half(importing, 10)
    source.xdel("agent:events", "10-0", "15-0")  # the last that was read, and one that was not
    report = importing.run()
    assert numbers(memory) == [*range(1, 15), *range(16, 31)]
    assert report.complete
    assert gaps(importing) == []


def test_a_stream_created_again_is_imported_and_reported(source, importing, memory):
    fill(source, 10)
    importing.run()
    source.delete("agent:events")
    fill(source, 5, first=21)
    report = importing.run()
    assert numbers(memory) == [*range(1, 11), *range(21, 26)]
    assert report.missed == {b"agent:events": None}
    assert "an unknown number of entries between 10-0 and 21-0" in gaps(importing)[0][1]


def test_a_stream_with_lower_ids_is_another_one(source, importing, memory):
    fill(source, 10)
    importing.run()
    source.delete("agent:events")
    fill(source, 5)
    assert importing.run().refused == 1
    ((_, key, _, why),) = importing.refused()
    assert key == "agent:events"
    assert "is not the one that was imported before" in why
    assert numbers(memory) == list(range(1, 11))
    importing.run(name="second", streams=["agent:events=second"])
    assert numbers(memory, "second") == [1, 2, 3, 4, 5]


def test_before_redis_7_a_gap_is_seen_and_not_counted(source, importing, monkeypatch):
    """Such a server does not count the entries that it ever had."""
    of = Info.of

    def without(answer):
        return of(answer)._replace(added=None)

    monkeypatch.setattr(Info, "of", staticmethod(without))
    fill(source, 30)
    half(importing, 10)
    source.xtrim("agent:events", maxlen=5, approximate=False)
    report = importing.run()
    assert report.missed == {b"agent:events": None}
    assert len(gaps(importing)) == 1


def test_a_deleted_stream_is_reported(source, importing, memory):
    fill(source, 10)
    with importing.opened() as importer:
        importer.begin()
        importer.run()
        source.delete("agent:events")
        (stream,) = importer.streams.values()
        assert stream.drain() == 0
    assert any("is no longer in Redis" in words for words in importing.told.words)
    assert numbers(memory) == list(range(1, 11))


# --- what stands in the way -------------------------------------------------------------------


def test_two_imports_do_not_fill_one_stream(source, importing, memory):
    fill(source, 3)
    importing.run(name="one")
    with pytest.raises(ImportConflict, match="is filled by 'stream agent:events' of the import 'o"):
        importing.run(name="two")
    fill(source, 2, "more")
    with pytest.raises(ImportConflict, match="is filled by"):
        importing.run(name="three", streams=["more=agent:events"])
    assert numbers(memory) == [1, 2, 3]


def test_a_key_that_is_no_name_is_listed_and_the_others_are_imported(source, importing, memory):
    fill(source, 2)
    source.xadd(b"bad\xff", published(1))
    source.xadd("long" * 200, published(1))
    report = importing.run()
    assert numbers(memory) == [1, 2]
    assert {kind for kind, *_ in importing.refused()} == {"key"}
    assert (
        sorted(reason.split(" (")[1] for *_, reason in importing.refused())
        == ["a whole stream)"] * 2
    )
    assert (report.refused, report.complete) == (2, False)


@pytest.mark.parametrize("wrong", [{"streams": ["h"]}, {"hashes": ["s"]}, {"dedupe": ["s"]}])
def test_a_key_that_was_named_and_is_of_another_type_is_refused_at_once(
    source, importing, memory, wrong
):
    source.hset("h", "a", 1)
    fill(source, 1, "s")
    with pytest.raises(InvalidInput, match="Nothing was imported"):
        importing.run(**wrong)
    assert memory.events.count() == 0
    assert importing.run(streams=["not there yet"]).complete


def test_a_stream_that_becomes_something_else_is_an_error_that_names_it(source, importing):
    fill(source, 5)
    with importing.opened() as importer:
        importer.begin()
        importer.run()
        source.delete("agent:events")
        source.set("agent:events", "x")
        (stream,) = importer.streams.values()
        with pytest.raises(SourceError, match="'agent:events' of Redis: WRONGTYPE"):
            stream.drain()


def test_events_written_in_pgmem_stay_where_they_are(source, importing, memory):
    memory.events.append("agent:events", Event(type="ours", payload={"n": "ours"}))
    fill(source, 2)
    assert importing.compared().equal
    assert numbers(memory) == ["ours", 1, 2]
