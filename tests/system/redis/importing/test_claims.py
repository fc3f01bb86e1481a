"""Claims in progress are told from finished work by a rule, and types from their neighbours."""

from __future__ import annotations

import pytest

from pgmem.errors import InvalidInput
from pgmem.redis import Imports
from pgmem.redis.importing.mixed import Types
from pgmem.redis.importing.rules import CLAIM, UNDECIDED, parse_rules


def keys(memory):
    return [record.key for record in Imports(memory).known_records()]


def test_without_a_rule_no_string_is_imported_as_done(source, importing, memory):
    source.set("lock:order", "worker-1", nx=True, ex=60)
    source.set("once:a", "1", ex=60)
    report = importing.run(strings=None)
    assert keys(memory) == []
    assert memory.dedupe.run_once("lock:order", lambda: 1).status == "processed"
    assert report.survey.left[UNDECIDED][0] == report.undecided == 2
    assert not report.complete


def test_claims_stay_in_redis(source, importing, memory):
    source.set("lock:order", "worker-1", nx=True, ex=60)
    source.set("job:1", "processing", ex=60)
    source.set("job:2", "done", ex=60)
    report = importing.run(claims=["lock:*", "job:*=proc*"])
    assert keys(memory) == ["job:2"]
    assert (report.survey.left[CLAIM], report.claims) == ((1, ["lock:order"]), 1)
    assert report.complete
    source.set("job:1", "done", ex=60)
    importing.run(claims=["lock:*", "job:*=proc*"])
    assert keys(memory) == ["job:1", "job:2"]
    # What was said to be done, and is said to be a claim now, is removed.
    assert importing.run(claims=["lock:*", "job:1"]).removed == 1
    assert keys(memory) == ["job:2"]
    assert importing.compared(claims=["lock:*", "job:1"]).equal


def test_all_strings_may_be_claims(source, importing, memory):
    source.set("a", 1, ex=60)
    source.set("ever", 1)
    report = importing.run(strings="claims")
    assert keys(memory) == []
    assert report.complete
    assert report.survey.left == {CLAIM: (1, ["a"]), "string without an expiry": (1, ["ever"])}


def test_strings_is_for_everything():
    with pytest.raises(InvalidInput, match="--strings is for an import of everything"):
        parse_rules(streams=["a"], strings="done")


def test_values_of_another_type_than_their_neighbours_are_named(source, importing):
    for n, code in enumerate(["90210", "10115", "01234"]):
        source.hset(f"user:{n}", mapping={"zip": code, "name": "Ann", "age": "41"})
    source.hset("zips", mapping={"anna": "90210", "bob": "01234"})
    (of_users, of_hash) = sorted(importing.run().mixtures, key=lambda found: found.place)
    assert of_users.place == "user:* zip"
    assert (of_users.counts, of_users.rows) == ({"number": 2, "text": 1}, ["user:2 zip"])
    assert (of_hash.place, of_hash.counts) == ("zips *", {"number": 1, "text": 1})
    assert importing.run(name="text", hashes=["*={key}/{field}"], values="text").mixtures == []


def test_types_are_counted_by_field():
    types = Types()
    for key, part, value in [
        ("a:1", "f", b"1"),
        ("a:2", "f", b"null"),
        ("a:3", "f", b"2.5"),
        ("a:5", "f", b" 3"),
        ("b:1", "f", b'"text"'),
        ("b:2", "f", b' "text"'),
        ("a:1", "g", b'"text"'),
    ]:
        types.note("hash", key, part, value)
    assert types.mixtures() == []
    types.note("hash", "a:4", "f", b'{"x":1}')
    (found,) = types.mixtures()
    assert (found.place, found.rows) == ("a:* f", ["a:4 f"])
