"""Entries, fields and members are converted, and converted back to the same."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime

import orjson
import pytest

from pgmem import RecordedEvent
from pgmem.redis.importing.convert import (
    Origin,
    Streams,
    Unfit,
    entry_fields,
    field_entry,
    is_json,
    member_record,
    plain,
    string_record,
    value,
    whole_entry,
)
from pgmem.redis.importing.rules import Rule
from tests.support.processes import seed
from tests.system.redis.importing.support import published

TIME = datetime(2026, 11, 22, 10, tzinfo=UTC)


def flat(fields):
    """Return fields as Redis sends them."""
    return [
        part if isinstance(part, bytes) else str(part).encode()
        for pair in fields.items()
        for part in pair
    ]


def event(fields, identity=b"5-1", values="json"):
    return Streams(values).event(identity, flat(fields))


def test_an_entry_of_the_published_code():
    found = event(published(7))
    assert found.type == "payment.validated"
    assert found.agent_id == "validator"
    assert found.payload == b'{"n": 7}'
    assert json.loads(found.metadata) == {
        "redis": {"id": "5-1", "fields": {"timestamp": "2026-11-22T10:00:00"}}
    }


def test_an_entry_of_redis_done_right():
    found = event({"type": "t", "payload": "[1]", "agent_id": "a"})
    assert found == ("t", b"[1]", "a", b'{"redis":{"id":"5-1"}}')


def test_an_entry_without_a_payload_is_its_fields_as_texts():
    found = event({"order": "17", "amount": "5.0", "note": "", "type": "ordered"})
    assert (found.type, found.agent_id) == ("ordered", None)
    assert json.loads(found.payload) == {"order": "17", "amount": "5.0", "note": ""}
    assert event({"order": "17"}).type == "redis.entry"
    assert event({"type": "bare"}).payload == b"{}"


def test_what_is_empty_is_kept_as_it_is():
    found = event({"event_type": "", "agent_id": "", "payload": "1"})
    assert (found.type, found.agent_id, found.payload) == ("redis.entry", None, b"1")
    fields = json.loads(found.metadata)["redis"]["fields"]
    assert fields == {"event_type": "", "agent_id": ""}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ([b"a", b"1", b"a", b"2"], "repeated"),
        ([b"\xff", b"1"], "name of a field is not UTF-8"),
        ([b"a", b"\xff"], "field 'a' is not UTF-8"),
        ([b"type", b"\xff", b"payload", b"1"], "type is not UTF-8"),
        ([b"agent_id", b"\xff", b"payload", b"1"], "agent_id is not UTF-8"),
    ],
)
def test_an_entry_that_cannot_be_an_event_is_refused(fields, why):
    with pytest.raises(Unfit, match=why):
        Streams().event(b"1-0", fields)


def test_a_stream_may_have_entries_of_many_shapes():
    converter = Streams()
    assert converter.event(b"1-0", flat(published(1))).agent_id == "validator"
    assert converter.event(b"2-0", [b"x", b"y"]).payload == b'{"x":"y"}'
    assert converter.event(b"3-0", flat(published(3))).payload == b'{"n": 3}'
    assert converter.shape.names == ("agent_id", "event_type", "payload", "timestamp")
    with pytest.raises(Unfit):
        converter.event(b"4-0", [b"x", b"\xff"])
    assert converter.shape.names[0] == "agent_id"  # of the last one that fitted


@pytest.mark.parametrize(
    ("raw", "auto"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"[1, 2]", [1, 2]),
        (b'"quoted"', "quoted"),
        (b"17", 17),
        (b"-1.5", -1.5),
        (b"true", True),
        (b"null", None),
        (b"007", "007"),
        (b"+84", "+84"),
        (b"1e3", "1e3"),
        (b"1.0", 1.0),
        (b" 17", " 17"),
        (b"12345678901234567890123", "12345678901234567890123"),
        (b"Ann", "Ann"),
        (b"", ""),
        ("é".encode(), "é"),
    ],
)
def test_auto_reads_as_json_only_what_json_returns_unchanged(raw, auto):
    found = orjson.loads(value(raw, "auto", "it"))
    assert found == auto
    assert type(found) is type(auto)
    assert value(raw, "json", "it") == raw
    assert orjson.loads(value(raw, "text", "it")) == raw.decode()


def test_a_value_that_is_neither_json_nor_text_is_refused():
    for values in ("auto", "text"):
        with pytest.raises(Unfit, match="it is not UTF-8"):
            value(b"\xff", values, "it")
    assert not is_json(b"\xff")


def test_fields_members_and_strings():
    rule = Rule("hash", "h*", "{key}.{field}")
    origin = Origin("r", rule, "h1")
    entry = field_entry(origin, b"f", b"5", 9.0)
    assert entry[:2] == ("h1.f", b"5")
    assert (json.loads(entry.origin), entry.ttl) == (
        {"redis": {"source": "r", "type": "hash", "key": "h1", "field": "f"}},
        9.0,
    )
    whole, fields = whole_entry(
        Origin("r", Rule("hash", "h*", "{key}"), "h1"), [b"a", b"1", b"b", b"x"], None
    )
    assert (whole.key, whole.value) == ("h1", b'{"a":1,"b":"x"}')
    assert fields == [("a", b"1"), ("b", b'"x"')]
    record = member_record(Origin("r", Rule("set", "s", "{key}:{member}"), "s"), b"e1", None)
    assert (record.key, record.result) == ("s:e1", None)
    assert json.loads(record.origin)["redis"] == {"source": "r", "type": "set", "key": "s"}
    strings = Origin("r", Rule("string", "*", "{key}"), "k")
    assert string_record(strings, b"1", 5.0)[0][0::2] == ("k", b"1")
    bare, why = string_record(strings, b"\xff", None)
    assert (bare.result, why) == (None, "the value is not UTF-8")


def recorded(found):
    """Return an event as the log stores it."""
    return RecordedEvent(
        1,
        "s",
        None,
        found.type,
        orjson.loads(found.payload),
        found.agent_id,
        orjson.loads(found.metadata),
        TIME,
    )


def test_the_way_back_leads_to_the_same_event():
    """Check for entries of any shape that one written back is imported as the same event."""
    rng = random.Random(seed())
    texts = ["", "a", "payment.validated", "é", "007", "null", '{"x": 1}', "2026-11-22T10:00:00"]
    for _ in range(300):
        fields = {}
        for name in rng.sample(["agent_id", "event_type", "type", "timestamp", "x", "y"], 4):
            fields[name] = rng.choice(texts)
        if rng.random() < 0.5:
            fields["payload"] = json.dumps(rng.choice([1, None, "t", {"a": [1, {"b": "é"}]}, []]))
        before = event(fields)
        after = Streams().event(b"5-1", flat(entry_fields(recorded(before), list(fields))))
        assert after[0::2] == before[0::2], fields
        assert orjson.loads(after.payload) == orjson.loads(before.payload), fields
        assert orjson.loads(after.metadata) == orjson.loads(before.metadata), fields


def test_an_event_of_pgmem_looks_like_its_stream():
    made = RecordedEvent(9, "s", None, "t", {"n": 1}, "a", None, TIME)
    names = ["agent_id", "event_type", "payload", "timestamp"]
    assert entry_fields(made, names) == {
        "agent_id": b"a",
        "event_type": b"t",
        "payload": b'{"n":1}',
        "timestamp": b"2026-11-22T10:00:00",
    }
    assert entry_fields(made, ["n", "type"]) == {"n": b"1", "type": b"t", "agent_id": b"a"}
    assert entry_fields(made._replace(payload=[1], agent_id=None), ["n"]) == {
        "payload": b"[1]",
        "event_type": b"t",
    }


@pytest.mark.parametrize("values", ["auto", "json", "text"])
def test_a_value_written_back_is_the_same_value_again(values):
    for found in ["Ann", "17", "", "null", '{"a":1}', 17, 1.5, None, True, {"a": ["é"]}, []]:
        if values == "text" and not isinstance(found, str):
            continue  # such a value did not come from there
        assert orjson.loads(value(plain(found, values), values, "it")) == found
