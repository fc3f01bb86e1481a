"""Hashes, sets and strings become entries and marks, and leave alone what is not theirs."""

from __future__ import annotations

import json

import pytest

from pgmem.errors import InvalidInput
from pgmem.redis import Imports
from pgmem.redis.importing.passes import PART
from pgmem.redis.importing.source import RedisSource
from pgmem.redis.importing.walk import ENDED, LARGE, Place, Walk


def never():
    raise AssertionError("it ran")


def value(memory, key):
    entry = memory.state.get(key)
    return entry and entry.value


def test_each_field_is_an_entry(source, importing, memory):
    source.hset("agent:state", mapping={"v:ok": '{"n": 1}', "p:done": "[1]"})
    source.hset("user:1", mapping={"name": "Ann", "age": "41", "zip": "007"})
    assert importing.run().complete
    assert [(e.key, e.value) for e in memory.state.list()] == [
        ("agent:state:p:done", [1]),
        ("agent:state:v:ok", {"n": 1}),
        ("user:1:age", 41),
        ("user:1:name", "Ann"),
        ("user:1:zip", "007"),
    ]
    (change,) = memory.state.history("user:1:name")
    assert change.metadata == {
        "redis": {"source": "test", "type": "hash", "key": "user:1", "field": "name"}
    }


def test_each_hash_is_an_entry(source, importing, memory):
    source.hset("resource:7", mapping={"count": "3", "version": "4", "name": "Ann"})
    source.hset("user:1", mapping={"name": "Ann", "age": "41"})
    importing.run()
    assert value(memory, "resource:7") == {"count": "3", "version": "4", "name": "Ann"}
    assert value(memory, "user:1") is None
    importing.run(name="whole", hashes=["user:*=people/{key}"], hash_as="fields")
    assert value(memory, "people/user:1") == {"name": "Ann", "age": 41}


def test_members_and_expiring_strings_become_dedupe_records(source, importing, memory):
    source.sadd("processed:events", "e1", "e2")
    source.expire("processed:events", 3_600)
    source.set("once:a", '{"ok": true}', nx=True, ex=60)
    source.set("cache", "x")
    report = importing.run()
    for key in ("processed:events:e1", "processed:events:e2"):
        assert memory.dedupe.run_once(key, never) == ("skipped", None)
    assert memory.dedupe.run_once("once:a", never) == ("skipped", {"ok": True})
    ttls = {record.key: record.ttl for record in Imports(memory).known_records()}
    assert 3_590 < ttls["processed:events:e1"] <= 3_600
    assert 50 < ttls["once:a"] <= 60
    assert report.survey.left == {"string without an expiry": (1, ["cache"])}
    assert memory.dedupe.run_once("cache", lambda: 1).status == "processed"
    # Asked for by name, a string without an expiry is imported too, and members can have any name.
    importing.run(name="more", dedupe=["cache", "processed:*={member}"])
    assert memory.dedupe.run_once("e1", never).status == "skipped"


def test_expiries_are_imported(source, importing, memory):
    source.hset("session", mapping={"a": "1", "b": "2"})
    source.expire("session", 100)
    source.hset("fields", mapping={"a": "1", "b": "2"})
    source.execute_command("HPEXPIRE", "fields", 50_000, "FIELDS", 1, "a")
    source.hset("both", mapping={"a": "1"})
    source.expire("both", 10**9)
    source.execute_command("HPEXPIRE", "both", 20_000, "FIELDS", 1, "a")
    source.hset("far", "a", "1")
    source.pexpire("far", 10**16)
    importing.run()
    ends = {entry.key: entry.ttl for entry in Imports(memory).known_entries()}
    assert 95 < ends["session:a"] <= 100
    assert 45 < ends["fields:a"] <= 50
    assert ends["fields:b"] is None
    assert 15 < ends["both:a"] <= 20
    assert ends["far:a"] is None  # pgmem's ends are at most a hundred years away
    assert importing.compared().equal


def test_again_only_what_has_changed_is_written(source, importing, memory):
    source.hset("h", mapping={"a": "1", "b": "2", "c": "3"})
    source.sadd("s", "m", "n")
    importing.run()
    source.hset("h", "a", "9")
    source.hdel("h", "b")
    source.srem("s", "n")
    source.set("new", 1, ex=60)
    report = importing.run()
    assert [(e.key, e.value, e.version) for e in memory.state.list()] == [
        ("h:a", 9, 2),
        ("h:c", 3, 1),
    ]
    assert [record.key for record in Imports(memory).known_records()] == ["new", "s:m"]
    assert report.removed == 2
    source.delete("h", "s", "new")
    assert importing.run().removed == 4
    assert memory.state.list() == []
    assert importing.compared().equal


def test_what_was_written_in_pgmem_is_left_and_listed(source, importing, memory):
    source.hset("h", mapping={"a": "1", "b": "2"})
    source.sadd("s", "done", "busy")
    memory.state.put("h:a", "ours")
    memory.dedupe.run_once("s:done", lambda: "ours")
    claim = memory.dedupe.claim("s:busy")
    report = importing.run()
    assert value(memory, "h:a") == "ours"
    assert value(memory, "h:b") == 2
    assert memory.dedupe.run_once("s:done", never) == ("skipped", "ours")
    assert {(kind, name) for kind, _, name, _ in importing.refused()} == {
        ("field", "a"),
        ("member", "busy"),
    }
    assert (report.refused, report.complete) == (2, False)
    found = importing.compared()
    assert (found.changed_here, found.missing) == (2, 1)
    memory.dedupe.complete(claim)
    assert importing.compared().equal
    # What was changed or deleted here since is not brought back, or only if it is gone.
    memory.state.put("h:b", 7)
    source.hdel("h", "a", "b")
    assert importing.run().removed == 0
    assert [e.value for e in memory.state.list()] == ["ours", 7]


def test_two_keys_of_one_name_are_not_mixed_up(source, importing, memory):
    source.hset("h1", "f", "1")
    source.hset("h2", "f", "2")
    source.sadd("s1", "m")
    source.sadd("s2", "m")
    source.expire("s2", 60)
    report = importing.run(hashes=["*={field}"], dedupe=["*={member}"])
    assert report.refused == 2
    assert {kind for kind, *_ in importing.refused()} == {"field", "member"}
    assert len(memory.state.list()) == len(Imports(memory).known_records()) == 1


BAD_FIELDS = {
    "broken": b"{nope",
    "nan": b"NaN",
    "nul": b'"\\u0000"',
    "binary": b"\xff",
    "large": b'"%s"' % (b"x" * 2**20),
}


def test_bad_values_are_listed_with_their_bytes(source, importing, memory):
    source.hset("agent:state", mapping={"good": "1", **BAD_FIELDS})
    source.hset(b"bad\xff", "f", "1")
    source.hset("h", b"\xff", "1")
    source.hset("resource:1", b"\xff", "1")
    source.sadd("s", b"\xff", "x" * 600, "fine")
    report = importing.run()
    assert [entry.key for entry in memory.state.list()] == ["agent:state:good"]
    assert [record.key for record in Imports(memory).known_records()] == ["s:fine"]
    listed = {(kind, name) for kind, _, name, _ in importing.refused()}
    assert listed == {
        *(("field", name) for name in BAD_FIELDS),
        ("field", "\\xff"),
        ("key", ""),
        ("hash", ""),
        ("member", "\\xff"),
        ("member", "x" * 600),
    }
    assert [b"{nope"] in importing.raw()
    assert report.refused == len(importing.refused()) == 10
    found = importing.compared()
    assert (found.equal, found.refused) == (True, 10)


def test_work_that_was_done_stays_done_without_a_result_that_cannot_be_kept(
    source, importing, memory
):
    for key, result in {"binary": b"\xff", "nul": "a\0b", "good": "1"}.items():
        source.set(key, result, ex=60)
    report = importing.run()
    for key, result in {"binary": None, "nul": None, "good": 1}.items():
        assert memory.dedupe.run_once(key, never) == ("skipped", result)
    assert report.refused == 2
    assert all("recorded as done without its result" in why for *_, why in importing.refused())


def test_types_that_pgmem_does_not_have_are_counted_and_left(source, importing, memory):
    for n in range(7):
        source.zadd(f"board:{n}", {"a": 1})
    source.lpush("queue", 1)
    report = importing.run()
    count, examples = report.survey.left["zset"]
    assert (count, len(examples)) == (7, 5)
    assert report.survey.left["list"] == (1, ["queue"])
    assert report.complete  # they were not asked for
    with pytest.raises(InvalidInput, match="'queue' of Redis is a list"):
        importing.run(name="named", hashes=["queue"])


# --- a walk -----------------------------------------------------------------------------------


@pytest.fixture
def redis_source(importing):
    with RedisSource(importing.url) as found:
        yield found


def walked(walk):
    return {
        (chunk.key.name, part)
        for chunk in walk.chunks()
        for part in (chunk.parts[::2] if chunk.key.kind == "hash" else chunk.parts)
    }


def fill_keys(source):
    """Small and large keys; gives what is in them."""
    there = set()
    for key, count in {"large": 3 * LARGE, "larger": 4 * LARGE}.items():
        source.hset(key, mapping={f"{key}{n}": n for n in range(count)})
        there |= {(key.encode(), f"{key}{n}".encode()) for n in range(count)}
    source.sadd("members", *range(2 * LARGE))
    there |= {(b"members", b"%d" % n) for n in range(2 * LARGE)}
    for n in range(300):
        source.hset(f"small:{n}", "f", n)
        there.add((b"small:%d" % n, b"f"))
    return there


def test_a_walk_finds_everything(source, importing, redis_source):
    there = fill_keys(source)
    with importing.opened() as importer:
        walk = Walk(redis_source, importer.context.rules)
        assert walked(walk) == there
        assert walk.cursor == ENDED


def test_a_walk_interrupted_anywhere_misses_nothing(source, importing, redis_source):
    there = fill_keys(source)
    with importing.opened() as importer:
        rules = importer.context.rules
        for stop in range(1, 40, 3):
            met, cursor = set(), ""
            while cursor != ENDED:
                walk = Walk(redis_source, rules, cursor)
                for count, chunk in enumerate(walk.chunks()):
                    # As an importer: what came before the cursor was read is kept.
                    before, kept = walk.cursor, chunk
                    parts = kept.parts[::2] if kept.key.kind == "hash" else kept.parts
                    met |= {(kept.key.name, part) for part in parts}
                    if count == stop and before != cursor:
                        break
                else:
                    before = walk.cursor
                cursor = before
            assert met == there, stop


def test_a_walk_continues_in_the_middle_of_a_large_key(source, importing, redis_source):
    source.hset("large", mapping={f"f{n}": n for n in range(5 * LARGE)})
    with importing.opened() as importer:
        walk = Walk(redis_source, importer.context.rules)
        chunks = walk.chunks()
        first = [next(chunks) for _ in range(3)]
        place = Place.parse(walk.cursor)
        assert (place.key, place.inner != 0) == (b"large", True)
        rest = list(Walk(redis_source, importer.context.rules, walk.cursor).chunks())
        fields = [set(chunk.parts[::2]) for chunk in (*first, *rest)]
        assert len(set().union(*fields)) == 5 * LARGE
        # The page whose cursor it was is read again; what came before it is not.
        assert not (fields[0] | fields[1]) & set().union(*fields[3:])


def test_cursors_of_another_server_process_are_not_used(source, importing, redis_source):
    there = fill_keys(source)
    with importing.opened() as importer:
        foreign = str(Place("another", 12345, (b"large",), b"larger", 678))
        assert walked(Walk(redis_source, importer.context.rules, foreign)) == there
        # Also if it changes on the way: the walk begins anew.
        walk = Walk(redis_source, importer.context.rules)
        met = set()
        for count, chunk in enumerate(walk.chunks()):
            if count == 5:
                redis_source.server = "restarted"
            parts = chunk.parts[::2] if chunk.key.kind == "hash" else chunk.parts
            met |= {(chunk.key.name, part) for part in parts}
        assert met == there
        assert walk.cursor == ENDED


def test_a_key_that_is_replaced_while_it_is_read_is_listed(source, importing, monkeypatch):
    source.hset("h", "f", "1")
    many = RedisSource.many

    def replacing(self, commands, **options):
        if commands and commands[0][0] == "PTTL" and commands[1][0] == "HGETALL":
            source.delete("h")
            source.lpush("h", 1)
        return many(self, commands, **options)

    monkeypatch.setattr(RedisSource, "many", replacing)
    importing.run()
    assert [(kind, key) for kind, key, *_ in importing.refused()] == [("key", "h")]


def test_an_interrupted_pass_is_continued(source, importing, memory):
    source.hset("large", mapping={f"f{n}": n for n in range(10 * LARGE)})
    with importing.opened() as importer:
        importer.begin()
        one = importer.new_pass()
        steps = one.steps()
        for _ in range(5):
            next(steps)
        importer.context.writer.wait()
    part = Imports(memory).get("test", PART)
    assert json.loads(part.cursor)["key"] == "large"
    done = len(memory.state.list(limit=100_000))
    assert 0 < done < 10 * LARGE
    report = importing.run()
    assert len(memory.state.list(limit=100_000)) == 10 * LARGE
    assert Imports(memory).get("test", PART).cursor == ENDED
    assert report.complete
    assert {entry.version for entry in memory.state.list(limit=100_000)} == {1}
