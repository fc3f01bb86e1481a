"""Two places of Redis with one name in pgmem are found before anything is fenced."""

from __future__ import annotations

import pytest

from pgmem.errors import InvalidInput
from pgmem.redis import Imports
from pgmem.redis.errors import ImportConflict
from pgmem.redis.importing.rules import parse_rules
from tests.system.redis.importing.support import fill, numbers

FIELDS = r"the entry 'a:b:c' would come from the field '.*' of the hash '.*' and from the field"


def two_fields(source):
    source.hset("a", "b:c", 1)
    source.hset("a:b", "c", 2)


def fenced(source):
    return [key for key in source.scan_iter() if key.endswith(b":before-pgmem")]


def test_fields_that_collide_end_a_cut_over_before_a_fence(source, importing, memory):
    two_fields(source)
    fill(source, 2)
    assert importing.run().refused == 1
    ((kind, _, _, why),) = importing.refused()
    assert kind == "field"
    assert "--hash 'KEY={key}/{field}'" in why
    with pytest.raises(ImportConflict, match=rf"nothing was fenced.*{FIELDS}"):
        importing.cut_over()
    assert fenced(source) == []
    assert Imports(memory).get("test", "import").detail["phase"] == "importing"
    rules = {"streams": ["*"], "hashes": ["a:b={key}/{field}", "*"]}
    _, compared = importing.cut_over(verify=True, **rules)
    assert compared.equal
    assert sorted(e.value for e in memory.state.list(limit=10)) == [1, 2]


def test_a_collision_over_two_steps_is_found(source, importing, monkeypatch):
    monkeypatch.setattr("pgmem.redis.importing.passes.STEP", 1)
    two_fields(source)
    with pytest.raises(ImportConflict, match=FIELDS):
        importing.cut_over()


def test_a_member_and_a_string_collide(source, importing):
    source.sadd("a", "b")
    source.set("a:b", 1, ex=60)
    with pytest.raises(ImportConflict, match=r"the member 'b' of the set 'a'|the string 'a:b'"):
        importing.cut_over()


def test_streams_that_collide(source, importing, memory):
    fill(source, 2, "in:1")
    fill(source, 2, "in:2", first=3)
    with pytest.raises(ImportConflict, match="the stream 'all' would come from the stream 'in:"):
        importing.cut_over(streams=["in:*=all"])
    assert fenced(source) == []
    importing.cut_over(
        streams=["in:*=all"], excepted=["in:2"] if numbers(memory, "all") == [1, 2] else ["in:1"]
    )
    assert len(fenced(source)) == 1


def test_groups_that_collide_can_be_renamed(source, importing, memory):
    fill(source, 4, "a")
    fill(source, 4, "a:b")
    source.xgroup_create("a", "b:c", "0")
    source.xgroup_create("a:b", "c", "0")
    source.xreadgroup("c", "x", {"a:b": ">"}, count=2)
    with pytest.raises(
        ImportConflict, match=r"the group 'a:b:c' .*--group 'KEY=\{key\}/\{group\}'"
    ):
        importing.cut_over()
    assert fenced(source) == []
    groups = ["a:b={key}/{group}", "a={key}/{group}"]
    report, compared = importing.cut_over(name="test", groups=groups, verify=True)
    assert compared.equal
    assert report.groups == {"a/b:c": 0, "a:b/c": 2}
    # The way back writes each group to its own stream.
    group = memory.groups.get("a:b/c")
    group.ack(group.read("new", limit=1))
    importing.reverse(groups=groups)
    assert [g["name"] for g in source.xinfo_groups("a")] == [b"b:c"]
    ((_, pending),) = [(g["name"], g["pending"]) for g in source.xinfo_groups("a:b")]
    assert pending == 1


def test_a_rule_for_groups_needs_a_name():
    with pytest.raises(InvalidInput, match="gives groups no name"):
        parse_rules(groups=["orders"])
