"""`state.blame` beside a plain model that flattens every version of a value."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from pgmem.state.blame import blame_fields
from pgmem.state.fields import field_path, is_same
from pgmem.state.models import StateEntry
from tests.support.options import full

START = datetime(2026, 1, 1, tzinfo=UTC)
ABSENT = object()
HISTORIES = 10_000 if full() else 1_000


def row(version, value, *, deleted=False, agent="a", metadata=None, expires_at=None, own=False):
    text = "null" if deleted else orjson.dumps(value).decode()
    return (
        version * 10,
        "state:k",
        version,
        "noted" if own else "state.put",
        '{"note": true}' if own else text,
        agent,
        None if metadata is None else orjson.dumps(metadata).decode(),
        START + timedelta(seconds=version),
        "k",
        version,
        deleted or None,
        text if own and not deleted else None,
        expires_at,
    )


def entry(version, value, created_at=START):
    return StateEntry("k", value, version, START, created_at)


def value_of(rng, depth):
    kind = rng.randrange(6 if depth else 4)
    if kind == 4:
        return {name: value_of(rng, depth - 1) for name in rng.sample("abc", rng.randrange(4))}
    if kind == 5:
        return [value_of(rng, depth - 1) for _ in range(rng.randrange(3))]
    return rng.choice([0, 1, True, False, None, "x", 1.5])


def leaves(value, depth, path=()):
    if depth and value and isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, depth - 1, (*path, name))
    elif depth and value and isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, depth - 1, (*path, index))
    else:
        yield path, value


def at(value, path):
    for part in path:
        fits = isinstance(value, dict if isinstance(part, str) else list)
        if not fits or (isinstance(part, int) and part >= len(value)):
            return ABSENT
        value = value[part] if isinstance(part, int) else value.get(part, ABSENT)
        if value is ABSENT:
            return ABSENT
    return value


def text_of(path):
    return "$" + "".join(field_path(p) if isinstance(p, str) else f"[{p}]" for p in path)


def expected(versions, depth):
    """For each field of the last value: the last version that changed it, and what was before."""
    for path, value in leaves(versions[-1][1], depth):
        for (_, before), (version, after) in zip(versions[-2::-1], versions[::-1], strict=False):
            old = at(before, path)
            # A field of a container that was a field itself before is a new field.
            was_field = any(one == path for one, _ in leaves(before, depth))
            if old is ABSENT or not was_field or orjson.dumps(old) != orjson.dumps(at(after, path)):
                yield text_of(path), value, version, old
                break


def test_it_agrees_with_a_plain_model():
    rng = random.Random(20261130)
    for _ in range(HISTORIES):
        versions, rows = [(0, ABSENT)], []
        value = {}
        for version in range(1, rng.randrange(2, 9)):
            if rng.random() < 0.15:
                versions.append((version, ABSENT))
                rows.append(row(version, None, deleted=True))
                continue
            value = dict(value) if isinstance(value, dict) else {}
            value[rng.choice("abc")] = value_of(rng, 3)
            value = value if rng.random() < 0.9 else value_of(rng, 3)
            versions.append((version, value))
            rows.append(row(version, value, own=rng.random() < 0.3))
        if versions[-1][1] is ABSENT:
            continue
        depth = rng.choice([-1, 0, 1, 2])
        got = blame_fields(entry(versions[-1][0], value), rows, None if depth < 0 else depth)
        want = list(expected(versions, depth))
        assert [(f.path, f.value, f.version) for f in got] == [one[:3] for one in want], versions
        assert [f.existed for f in got] == [one[3] is not ABSENT for one in want], versions
        for field, (_, _, _, before) in zip(got, want, strict=True):
            assert field.before == (None if before is ABSENT else before)
        assert all(f.certain for f in got)


def test_a_field_names_the_event_that_changed_it():
    rows = [
        row(1, {"a": 1, "b": 2}, agent="first"),
        row(2, {"a": 1, "b": 3}, agent="second", metadata={"run_id": "r7", "cause": 15}),
    ]
    a, b = blame_fields(entry(2, {"a": 1, "b": 3}), rows, None)
    assert (a.path, a.agent_id, a.position, a.existed, a.run_id) == (
        "$.a",
        "first",
        10,
        False,
        None,
    )
    assert (b.path, b.value, b.before, b.existed) == ("$.b", 3, 2, True)
    assert (b.agent_id, b.run_id, b.cause, b.position) == ("second", "r7", 15, 20)
    assert (b.version, b.type, b.recorded_at) == (2, "state.put", START + timedelta(seconds=2))


@pytest.mark.parametrize("metadata", [{"run_id": 7, "cause": "x"}, {"cause": True}, {}])
def test_metadata_of_the_writers_own_is_not_taken_for_a_run_or_a_cause(metadata):
    (field,) = blame_fields(entry(1, 1), [row(1, 1, metadata=metadata)], None)
    assert (field.run_id, field.cause) == (None, None)


def test_a_write_that_is_not_in_the_log_leaves_doubt():
    changed = {"a": 1, "b": 3, "c": 1}
    rows = [row(1, {"a": 1, "b": 2, "c": 0}), row(3, changed), row(4, {**changed, "c": 5})]
    a, b, c = blame_fields(entry(4, {**changed, "c": 5}), rows, None)
    assert (a.version, a.certain) == (1, True)
    assert (b.version, b.certain) == (3, False)
    assert (c.version, c.certain) == (4, True)


def test_the_last_write_may_not_be_in_the_log():
    a, b = blame_fields(entry(2, {"a": 1, "b": 3}), [row(1, {"a": 1, "b": 2})], None)
    assert (a.version, a.certain) == (1, True)
    assert (b.version, b.position, b.before, b.certain) == (None, None, 2, False)


def test_without_any_event_every_field_is_in_doubt():
    (field,) = blame_fields(entry(5, {"a": 1}), [], None)
    assert (field.path, field.value, field.version, field.certain) == ("$.a", 1, None, False)


def test_an_entry_that_expired_begins_anew():
    end = START + timedelta(seconds=1.5)
    rows = [row(1, {"a": 1}, expires_at=end), row(2, {"a": 1})]
    (field,) = blame_fields(entry(2, {"a": 1}, created_at=START + timedelta(seconds=2)), rows, None)
    assert (field.version, field.existed) == (2, False)


def test_an_entry_with_a_moved_end_goes_on():
    end = START + timedelta(seconds=1.5)  # A touch moved it: the entry was not created again.
    rows = [row(1, {"a": 1}, expires_at=end), row(2, {"a": 1})]
    (field,) = blame_fields(entry(2, {"a": 1}), rows, None)
    assert (field.version, field.existed) == (1, False)


def test_later_changes_are_left_out():
    (field,) = blame_fields(entry(1, {"a": 1}), [row(1, {"a": 1}), row(2, {"a": 2})], None)
    assert (field.value, field.version) == (1, 1)


def test_names_that_are_no_words_are_quoted():
    fields = blame_fields(
        entry(1, {"a b": {'"': 1}, "c": [2]}), [row(1, {"a b": {'"': 1}, "c": [2]})], None
    )
    assert [field.path for field in fields] == ['$["a b"]["\\""]', "$.c[0]"]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [(1, True, False), (0, False, False), (1, 1.0, True), ([1], [True], False), ({}, [], False)],
)
def test_values_compare_as_json(old, new, same):
    assert is_same(old, new) is same
    assert is_same(new, old) is same
