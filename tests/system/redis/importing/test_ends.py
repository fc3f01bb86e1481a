"""Ends of keys, fields and streams are carried to pgmem and back, or listed."""

from __future__ import annotations

import contextlib
import time

import pytest

from pgmem import Event
from pgmem.redis import Imports
from pgmem.redis.importing.source import RedisSource
from pgmem.redis.importing.verify import compare
from tests.support.waiting import wait_until
from tests.system.redis.importing.servers import client_of, program, running
from tests.system.redis.importing.support import Importing, fill


def end_field(source, key, field, milliseconds):
    source.execute_command("HPEXPIRE", key, milliseconds, "FIELDS", 1, field)


def field_end(source, key, field):
    """Return the milliseconds that a field has left; -1 for ever."""
    return source.execute_command("HPTTL", key, "FIELDS", 1, field)[0]


def listed(importing):
    return [(kind, key, name) for kind, key, name, _ in importing.refused()]


def test_a_field_that_ends_in_a_whole_entry_is_listed(source, importing, memory):
    source.hset("session:1", mapping={"user": "anna", "token": "t"})
    end_field(source, "session:1", "token", 60_000)
    report = importing.run(hashes=["session:*"], hash_as="entry")
    assert memory.state.get("session:1").value == {"user": "anna", "token": "t"}
    ((kind, key, name, why),) = importing.refused()
    assert (kind, key, name) == ("end", "session:1", "token")
    assert "ends by itself in Redis" in why
    assert "--hash 'KEY={key}:{field}'" in why
    assert (report.refused, report.complete) == (1, False)
    # A key that ends before the field, or with it, is carried.
    source.pexpire("session:1", 30_000)
    assert importing.run(hashes=["session:*"], hash_as="entry").complete


def test_fields_and_keys_that_end_while_they_are_read_are_left_out(
    source, importing, memory, monkeypatch
):
    source.hset("whole", mapping={"a": "1", "b": "2"})
    source.hset("gone", mapping={"a": "1"})
    many = RedisSource.many

    def ending(self, commands, **options):
        if commands and commands[0][0] == "HPTTL":
            source.hdel("whole", "b")
            source.delete("gone")
        return many(self, commands, **options)

    monkeypatch.setattr(RedisSource, "many", ending)
    importing.run(hashes=["whole={key}", "gone"])
    assert [(entry.key, entry.value) for entry in memory.state.list()] == [("whole", {"a": 1})]
    assert importing.refused() == []


def test_the_end_of_a_stream_is_listed_once(source, importing):
    fill(source, 3, "chat")
    source.expire("chat", 100)
    for _ in range(2):
        report = importing.run()
        assert report.ending == {b"chat"}
        assert not report.complete
    ((kind, key, _, why),) = importing.refused()
    assert (kind, key) == ("end", "chat")
    assert "retention" in why
    found = importing.compared()
    assert (found.equal, found.refused) == (True, 1)


def test_a_fenced_stream_that_ended_does_not_block_the_way_back(source, importing, memory):
    fill(source, 3, "chat")
    fill(source, 3, "quiet")
    fill(source, 3)
    source.xgroup_create("chat", "readers", "0")
    importing.cut_over()
    for stream in ("chat", "quiet"):
        source.pexpire(f"{stream}:before-pgmem", 1)
        wait_until(lambda: not source.exists(f"{stream}:before-pgmem"))  # noqa: B023  # called at once
    memory.events.append("chat", Event(type="t", payload={"n": 4}))
    memory.events.append("agent:events", Event(type="t", payload={"n": 4}))
    written = importing.reverse()
    assert (written["events"], written.get("blocked")) == (2, None)
    assert {key: source.xlen(key) for key in (b"chat", b"agent:events")} == {
        b"chat": 1,
        b"agent:events": 4,
    }
    assert source.exists("quiet") == 0
    fill(source, 1, "quiet", first=int(time.time() * 1_000))
    assert importing.run().missed[b"agent:events"] == 0
    assert memory.events.count("quiet") == 4


@pytest.mark.parametrize(
    ("ttl", "of_key", "of_field", "of_other"),
    [
        (..., (95, 100), (-1, -1), (-1, -1)),  # kept: it ends with the key, as before
        (50, (95, 100), (45, 50), (-1, -1)),
        (500, (495, 500), (-1, -1), (95, 100)),
        (None, (-1, -1), (-1, -1), (95, 100)),
    ],
)
def test_a_field_that_comes_back_ends_with_its_entry(
    source, importing, memory, ttl, of_key, of_field, of_other
):
    source.hset("h", mapping={"a": "1", "b": "2"})
    source.expire("h", 100)
    importing.cut_over()
    if ttl is ...:
        memory.state.update("h:a", lambda value: value + 1)
    else:
        memory.state.put("h:a", 2, ttl=ttl)
    assert "without their end" not in importing.reverse()
    assert source.hgetall("h") == {b"a": b"2", b"b": b"2"}
    found = (source.pttl("h"), field_end(source, "h", "a"), field_end(source, "h", "b"))
    for left, (least, most) in zip(found, (of_key, of_field, of_other), strict=True):
        assert least * 1_000 - 5_000 < left <= max(most * 1_000, -1), found


def test_a_set_ends_with_the_last_of_the_members_that_come_back(source, importing, memory):
    for key in ("longer", "shorter", "ended", "ever"):
        source.sadd(key, "m")
        if key != "ever":
            source.expire(key, 100)
    importing.cut_over()
    source.delete("ended:before-pgmem")
    for key, ttl in {"longer": 500, "shorter": 50, "ended": 50, "ever": 50}.items():
        memory.dedupe.run_once(f"{key}:new", lambda: None, ttl=ttl)
    importing.reverse()
    assert source.smembers("ended") == {b"new"}
    ends = {key: source.ttl(key) for key in ("longer", "shorter", "ended", "ever")}
    assert 490 < ends["longer"] <= 500
    assert 90 < ends["shorter"] <= 100
    assert 40 < ends["ended"] <= 50
    assert ends["ever"] == -1


@pytest.fixture
def old(memory, tmp_path):
    """Imports from a server that cannot end a field, and a client."""
    folder = tmp_path / "old"
    folder.mkdir()
    with running(program("redis 6.2"), folder) as url, contextlib.closing(client_of(url)) as client:
        yield Importing(url, memory, tmp_path), client


def test_a_server_that_cannot_end_a_field_lists_it(old, memory):
    importing, source = old
    for key in ("sooner", "later", "ever"):
        source.hset(key, mapping={"a": "1", "b": "2"})
        source.expire(key, 100)
    importing.cut_over()
    memory.state.put("sooner:a", 2, ttl=50)
    memory.state.put("later:a", 2, ttl=500)
    memory.state.put("ever:a", 2, ttl=None)
    written = importing.reverse()
    assert written["without their end"] == 3
    ends = [line for line in listed(importing) if line[0] == "end"]
    assert sorted(ends) == [("end", "ever", ""), ("end", "later", ""), ("end", "sooner", "a")]
    assert source.ttl("ever") == -1
    assert 490 < source.ttl("later") <= 500
    assert 90 < source.ttl("sooner") <= 100
    assert {source.hget(key, "a") for key in ("sooner", "later", "ever")} == {b"2"}


def test_verify_compares_ends(source, importing, memory):
    source.hset("h", mapping={"a": "1"})
    source.expire("h", 1_000)
    source.set("once", "1", ex=1_000)
    importing.run()
    assert importing.compared().equal
    with importing.opened() as importer:
        importer.begin()
        importer.open_streams_found()
        source.persist("h")
        source.expire("once", 5_000)
        found = compare(importer)
    assert (found.different, found.equal) == (2, False)
    assert {record.key for record in Imports(memory).known_records()} == {"once"}
