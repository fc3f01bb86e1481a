"""The way back writes to Redis what was written in pgmem since the cut-over."""

from __future__ import annotations

import json
import re

import pytest

from pgmem import Event
from pgmem.redis.errors import ImportConflict
from pgmem.redis.importing import reverse as module
from tests.system.redis.importing.support import fill, numbers, published


def payloads(source, stream="agent:events"):
    return [json.loads(fields[b"payload"]) for _, fields in source.xrange(stream)]


def test_events_go_back_in_their_order_and_shape(source, importing, memory):
    fill(source, 3)
    source.xadd("orders", {"type": "ordered", "id": "1"}, id="1-0")
    importing.cut_over()
    written = [
        Event(type=f"t{n}", payload={"n": n}, agent_id="a" if n % 2 else None) for n in range(4, 9)
    ]
    memory.events.append("agent:events", written[:3])
    memory.events.append("orders", Event(type="ordered", payload={"id": "2", "of": {"x": 1}}))
    memory.state.put("agent:state:a:t", 1, event=written[3], stream="agent:events")
    memory.events.append("agent:events", written[4])
    memory.events.append("new stream", Event(type="t"))
    assert importing.reverse()["events"] == 6
    assert payloads(source) == [{"n": n} for n in range(1, 9)]
    (_, last) = source.xrevrange("agent:events", count=1)[0]
    assert list(last) == [b"agent_id", b"event_type", b"payload", b"timestamp"]
    assert (last[b"agent_id"], last[b"event_type"]) == (b"tester", b"t8")
    (_, order) = source.xrevrange("orders", count=1)[0]
    assert order == {
        b"type": b"ordered",
        b"id": b"2",
        b"of": b'{"x":1}',
        b"agent_id": b"tester",
    }
    assert source.exists("new stream") == 0
    # The old readers go on behind the id that they have.
    assert [json.loads(f[b"payload"])["n"] for _, f in source.xread({"agent:events": "3-0"})[0][1]]


def test_many_events_go_back_page_by_page_and_never_twice(source, importing, memory, monkeypatch):
    monkeypatch.setattr(module, "PAGE", 7)
    fill(source, 10)
    importing.cut_over()
    for n in range(11, 61):
        memory.events.append("agent:events", Event(type="t", payload={"n": n}))
    assert importing.reverse()["events"] == 50
    assert [p["n"] for p in payloads(source)] == list(range(1, 61))
    # What was written back is not imported again, and not written back again.
    assert importing.run().complete
    assert numbers(memory) == list(range(1, 61))
    found = importing.compared()
    assert (found.equal, found.written_back) == (True, 50)
    source.xadd("agent:events", published(61))
    importing.cut_over()
    memory.events.append("agent:events", Event(type="t", payload={"n": 62}))
    assert importing.reverse()["events"] == 1
    assert [p["n"] for p in payloads(source)] == list(range(1, 63))
    assert numbers(memory) == list(range(1, 63))


def test_two_that_write_back_at_once_do_not_write_twice(source, importing, memory, monkeypatch):
    fill(source, 1)
    importing.cut_over()
    memory.events.append("agent:events", [Event(type="t", payload={"n": n}) for n in range(2, 5)])
    pages = module._pages

    def late(events):
        """Let another process write the same page in between."""
        for page in pages(events):
            source.hset(b"pgmem:written-back:test", b"agent:events", page[0].position)
            yield page

    monkeypatch.setattr(module, "_pages", late)
    with pytest.raises(ImportConflict, match="another process writes back"):
        importing.reverse()
    assert source.xlen("agent:events:before-pgmem") == 1


def test_state_goes_back_to_where_it_came_from(source, importing, memory):
    source.hset("agent:state", mapping={f"v:{n}": n for n in range(5)})
    source.hset("user:1", mapping={"name": "Ann", "zip": "007"})
    source.hset("resource:1", mapping={"version": 1, "gone": "x"})
    source.hset("resource:2", "version", 1)
    source.hset("agent:state", "broken", "{nope")
    importing.cut_over()
    memory.state.put("agent:state:v:0", {"a": 1})
    memory.state.put("agent:state:v:1", "text", ttl=500)
    memory.state.delete("agent:state:v:2")
    memory.state.put("user:1:name", "Bob")
    memory.state.put("user:1:zip", "17")
    memory.state.put("user:1:mail", None)
    memory.state.put("resource:1", {"version": "2"}, ttl=300)
    memory.state.delete("resource:2")
    memory.state.put("resource:3", {"version": "1"})
    memory.state.put("agent:state:v:3", 99, record=False)
    memory.state.put("nowhere", 1)
    memory.state.put("resource:4", [1])
    written = importing.reverse()
    assert (written["entries"], written["deleted"], written["left"]) == (8, 2, 2)
    state = source.hgetall("agent:state")
    assert state == {
        b"v:0": b'{"a":1}',
        b"v:1": b'"text"',
        b"v:3": b"99",
        b"v:4": b"4",
        b"broken": b"{nope",
    }
    assert (
        490_000 < source.execute_command("HPTTL", "agent:state", "FIELDS", 1, "v:1")[0] <= 500_000
    )
    assert source.hgetall("user:1") == {b"name": b"Bob", b"zip": b'"17"', b"mail": b"null"}
    assert source.hgetall("resource:1") == {b"version": b"2"}
    assert 290 < source.ttl("resource:1") <= 300
    assert source.exists("resource:2") == 0
    assert source.hgetall("resource:3") == {b"version": b"1"}
    left = {(kind, name) for kind, _, name, _ in importing.refused() if "pgmem" in kind}
    assert left == {("entry of pgmem", "nowhere"), ("entry of pgmem", "resource:4")}
    # The old writers change it, and it is followed again, as before.
    source.hset("agent:state", mapping={"v:0": 7, "v:2": 8})
    importing.run()
    for key, value in {"v:0": 7, "v:2": 8, "v:1": "text", "v:3": 99}.items():
        assert memory.state.get(f"agent:state:{key}").value == value
    assert importing.compared().equal


def test_work_goes_back_too(source, importing, memory):
    source.sadd("processed:events", "e1")
    source.set("once:a", 1, ex=60)
    importing.cut_over()
    memory.dedupe.run_once("processed:events:e2", lambda: None)
    memory.dedupe.run_once("once:b", lambda: {"ok": True}, ttl=100)
    memory.dedupe.run_once("once:c", lambda: "x", ttl=None)
    memory.dedupe.claim("busy")
    assert importing.reverse()["records"] == 3
    assert source.smembers("processed:events") == {b"e1", b"e2"}
    assert (source.get("once:b"), source.get("once:c")) == (b'{"ok":true}', b"x")
    assert 90 < source.ttl("once:b") <= 100
    assert source.ttl("once:c") == -1
    assert source.exists("busy") == 0


def test_items_without_one_place_in_redis_stay_and_are_listed(source, importing, memory):
    source.sadd("s1", "a")
    source.sadd("s2", "z")
    importing.cut_over(dedupe=["s*={member}"], streams=["x"])
    memory.dedupe.run_once("b", lambda: None)
    written = importing.reverse(dedupe=["s*={member}"], streams=["x"])
    assert written == {"left": 1, "deleted": 0}
    assert ("record of pgmem", "b") in {(kind, name) for kind, _, name, _ in importing.refused()}
    assert (source.smembers("s1"), source.smembers("s2")) == ({b"a"}, {b"z"})


def test_before_a_cut_over_there_is_nothing_to_go_back_from(source, importing):
    fill(source, 2)
    for begun in (False, True):
        with pytest.raises(ImportConflict, match="has not been cut over"):
            importing.reverse()
        if not begun:
            importing.run()
    assert source.xlen("agent:events") == 2


def test_a_cut_over_that_was_not_ended_can_be_taken_back(source, importing, memory, monkeypatch):
    """Killed after the fence, it also takes back entries that were not imported yet."""
    fill(source, 5)
    importing.run()
    fill(source, 5, first=6)
    source.hset("h", "a", 1)
    drained = []

    def dying(self, *, most=None):
        drained.append(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pgmem.redis.importing.streams.StreamImport.drain", dying)
        patch.setattr(
            "pgmem.redis.importing.run.Import.run", lambda self: self.open_streams_found()
        )
        with pytest.raises(KeyboardInterrupt):
            importing.cut_over()
    assert drained
    assert source.type("agent:events") == b"string"
    assert importing.reverse().get("events", 0) == 0
    assert source.xlen("agent:events") == 10
    assert source.hgetall("h") == {b"a": b"1"}
    importing.run()
    assert numbers(memory) == list(range(1, 11))


def test_a_stream_that_cannot_be_written_is_an_error(source, importing, memory):
    fill(source, 2)
    importing.cut_over()
    memory.events.append("agent:events", Event(type="t", payload={"n": 3}))
    source.delete("agent:events:before-pgmem")
    source.lpush("agent:events:before-pgmem", "x")
    source.hset("h", "a", 1)
    assert importing.reverse()["blocked"] == 1
    assert any(
        re.search(r"'agent:events' of Redis: WRONGTYPE", why) for *_, why in importing.refused()
    )
    assert source.type("agent:events") == b"string"
    # Nothing there at all is a stream that is made anew, with what came since.
    source.delete("agent:events:before-pgmem")
    importing.reverse()
    assert payloads(source) == [{"n": 3}]
