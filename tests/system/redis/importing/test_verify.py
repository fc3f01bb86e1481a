"""The comparison finds every difference between both sides, and no other."""

from __future__ import annotations

import psycopg
import pytest

from pgmem import Event
from pgmem.redis.importing.verify import compare
from tests.system.redis.importing.support import fill, published


@pytest.fixture
def imported(source, importing):
    """A Redis with items of all types, imported."""
    fill(source, 20)
    source.hset("h", mapping={"a": "1", "b": '{"x": 2}'})
    source.expire("h", 1_000)
    source.hset("resource:1", mapping={"version": 1})
    source.sadd("s", "m", "n")
    source.set("once", "1", ex=500)
    importing.run()
    return importing


def again(importing):
    """Compare without importing what is new."""
    with importing.opened() as importer:
        importer.begin()
        importer.open_streams_found()
        return compare(importer)


def change(database_url, *statements):
    """Change rows of pgmem directly."""
    with psycopg.connect(database_url) as connection:
        connection.execute("SET session_replication_role = replica")
        for statement in statements:
            connection.execute(statement)


def test_the_same_is_the_same(imported):
    found = again(imported)
    assert found.equal
    assert found.same == 20 + 3 + 3
    assert (found.missing, found.different, found.disordered, found.only_here) == (0, 0, 0, 0)
    assert found.examples == []


@pytest.mark.parametrize(
    ("statement", "kind", "example"),
    [
        (
            "UPDATE pgmem.events SET payload = '{\"n\": 99}' WHERE position = 5",
            "different",
            "agent:events 5-0",
        ),
        ("UPDATE pgmem.events SET type = 'x' WHERE position = 5", "different", "agent:events 5-0"),
        (
            "UPDATE pgmem.events SET agent_id = NULL WHERE position = 5",
            "different",
            "agent:events 5-0",
        ),
        (
            'UPDATE pgmem.events SET metadata = \'{"redis": {"id": "5-0"}}\' WHERE position = 5',
            "different",
            "agent:events 5-0",
        ),
        ("DELETE FROM pgmem.events WHERE position = 5", "missing", "agent:events 5-0"),
        (
            "INSERT INTO pgmem.events (stream, type, payload, agent_id, metadata) "
            "SELECT stream, type, payload, agent_id, metadata FROM pgmem.events "
            "WHERE position = 20",
            "disordered",
            "agent:events 20-0",
        ),
        ("UPDATE pgmem.state SET value = '7' WHERE key = 'h:a'", "different", "h a"),
        (
            "UPDATE pgmem.state SET expires_at = expires_at + interval '2 minutes' "
            "WHERE key = 'h:a'",
            "different",
            "h a",
        ),
        ("UPDATE pgmem.state SET expires_at = NULL WHERE key = 'h:a'", "different", "h a"),
        ("UPDATE pgmem.state SET value = NULL WHERE key = 'h:b'", "missing", "h b"),
        ("DELETE FROM pgmem.dedupe WHERE key = 's:m'", "missing", "s m"),
        ("UPDATE pgmem.dedupe SET result = '2' WHERE key = 'once'", "different", "once "),
        (
            "UPDATE pgmem.dedupe SET completed_at = NULL WHERE key = 's:n'",
            "missing",
            "s n",
        ),
    ],
)
def test_each_difference_is_found(imported, database_url, statement, kind, example):
    change(database_url, statement)
    found = again(imported)
    assert not found.equal
    assert (found.missing, found.different, found.disordered) == tuple(
        int(name == kind) for name in ("missing", "different", "disordered")
    )
    assert found.examples[0] == f"{kind}: {example}"


def test_swapped_events_are_found(imported, database_url):
    change(
        database_url,
        "UPDATE pgmem.events SET position = 1000 WHERE position = 7",
        "UPDATE pgmem.events SET position = 7 WHERE position = 12",
        "UPDATE pgmem.events SET position = 12 WHERE position = 1000",
    )
    found = again(imported)
    assert found.disordered > 0
    assert not found.equal


def test_allowed_differences_are_counted_apart(imported, source, memory):
    memory.state.put("h:a", "ours")
    memory.events.append("agent:events", Event(type="ours", payload={"n": 0}))
    source.xtrim("agent:events", maxlen=15, approximate=False)
    source.hdel("h", "b")
    source.srem("s", "n")
    source.delete("resource:1")
    source.xadd("agent:events", published(1))  # behind what was imported: not compared
    found = again(imported)
    assert found.equal
    assert (found.changed_here, found.only_here) == (1, 5 + 1 + 1 + 1)
    assert found.same == 15 + 1 + 1


def test_what_is_new_in_a_hash_is_missing(imported, source):
    source.hset("h", "c", 1)
    source.hset("h", "b", 5)
    found = again(imported)
    assert (found.missing, found.different) == (1, 1)
    assert sorted(found.examples) == ["different: h b", "missing: h c"]


def test_all_faults_are_counted_and_some_are_shown(imported, source):
    source.hset("h", mapping={f"new{n}": n for n in range(50)})
    found = again(imported)
    assert found.missing == 50
    assert len(found.examples) == 10
