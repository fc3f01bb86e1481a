"""`state.search` and `state.keys`: which entries they find, and in which order."""

from __future__ import annotations

import json

import psycopg
import pytest
from pydantic import BaseModel

from pgmem.errors import InvalidInput, InvalidValue

DOCS = {
    "doc:1": {"status": "open", "pages": 3, "tags": ["a", "b"], "author": {"name": "Hà", "n": 1}},
    "doc:2": {"status": "done", "pages": 3, "done": True},
    "doc:3": {"status": "open", "pages": 4.5, "note": None},
    "doc:4": "open",
    "doc:5": ["open"],
    "docs:6": {"status": "open"},
}


@pytest.fixture
async def docs(both):
    for key, value in DOCS.items():
        await both.state.put(key, value)
    return both


async def found(memory, prefix="doc:", **options):
    return [entry.key for entry in await memory.state.search(prefix, **options)]


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        (None, ["doc:1", "doc:2", "doc:3", "doc:4", "doc:5"]),
        ({}, ["doc:1", "doc:2", "doc:3", "doc:4", "doc:5"]),
        ({"status": "open"}, ["doc:1", "doc:3"]),
        ({"status": "OPEN"}, []),
        ({"status": "open", "pages": 3}, ["doc:1"]),
        ({"pages": 3}, ["doc:1", "doc:2"]),
        ({"pages": 3.0}, ["doc:1", "doc:2"]),
        ({"pages": "3"}, []),
        ({"pages": 4.5}, ["doc:3"]),
        ({"done": True}, ["doc:2"]),
        ({"done": 1}, []),
        ({"note": None}, ["doc:3"]),
        ({"author": {"name": "Hà"}}, ["doc:1"]),
        ({"tags": ["b"]}, ["doc:1"]),
        ({"tags": "b"}, []),
        ({"missing": 1}, []),
    ],
)
async def test_fields_of_the_value_select_entries(docs, where, keys):
    assert await found(docs, where=where) == keys


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE x --", '"', "\\", "a\\b", "%", "_", "ü", "/", "\n", "\x7f", "{where}"]
)
async def test_any_text_is_found_and_nothing_else(both, text):
    await both.state.put("doc:1", {text: text})
    await both.state.put("doc:2", {text: text + "x"})
    await both.state.put("doc:3", {"x" + text: text})
    assert await found(both, where={text: text}) == ["doc:1"]


@pytest.mark.parametrize(
    "write",
    [
        lambda state, value: state.put("k", value),
        lambda state, value: state.put_many({"k": value}),
        lambda state, value: state.update("k", lambda _: value),
    ],
)
async def test_every_write_tells_whether_a_text_has_escapes(both, database_url, write):
    def escaped():
        with psycopg.connect(database_url) as connection:
            return connection.execute("SELECT escaped FROM pgmem.state").fetchone()[0]

    for value, has_escapes in (("a\nb", True), ("plain", False), ({"a\\b": 1}, True), (5, False)):
        await write(both.state, value)
        assert escaped() is has_escapes
    taken = await both.state.snapshots.take()
    await both.state.put("k", 'a"b')
    await both.state.snapshots.restore(taken.id)
    assert not escaped()
    await both.state.delete("k")
    await both.state.create("k", 'a"b')
    assert escaped()
    await both.state.delete("k")
    await both.state.increment("k")
    assert not escaped()


async def test_another_spelling_of_the_same_json_is_found(both, database_url):
    # Rows written by SQL may escape characters that the library does not.
    with psycopg.connect(database_url, autocommit=True) as connection:
        for key, text in {
            "doc:1": r'{"status": "\u006fpen/"}',
            "doc:2": r'{"\u0073tatus":"open\/"}',
            "doc:3": '{ "status" :\t"open/" }',
        }.items():
            connection.execute(
                "INSERT INTO pgmem.state (key, value, version) VALUES (%s, %s, 1)", [key, text]
            )
    assert await found(both, where={"status": "open/"}) == ["doc:1", "doc:2", "doc:3"]


@pytest.mark.parametrize("wanted", [0, 0.0, -0.0, 7, 7.0, -3, 4.5, 1e300, 2**53, True, False, None])
async def test_numbers_compare_by_value_however_they_are_spelled(both, database_url, wanted):
    spelled = [
        *("0", "-0", "0.0", "0e5", "-0.0"),
        *("7", "7.0", "70e-1", "0.7E1", "7e+0", "-3", "-3.0", "-0.3e1", "4.5", "45e-1", "4.50"),
        *("1e300", "1E+300", "0.1e301", "9007199254740992", "9007199254740992.0"),
        *("true", "false", "null", '"7"', '"true"', '"0"', "[7]", '{"n": 7}'),
    ]
    with psycopg.connect(database_url, autocommit=True) as connection:
        for text in spelled:
            connection.execute(
                "INSERT INTO pgmem.state (key, value, version) VALUES (%s, %s, 1)",
                [text, f'{{"n": {text}, "e": "e.E"}}'],
            )
    same = {t for t in spelled if (v := json.loads(t)) == wanted and type(v) in _kinds(wanted)}
    assert set(await found(both, "", where={"n": wanted})) == same


def _kinds(value):
    return (int, float) if type(value) in (int, float) else (type(value),)


async def test_order_offset_and_limit(both):
    for key in "bca":
        await both.state.put(key, 1)
    await both.state.put("c", 2)
    assert await found(both, "") == ["a", "b", "c"]
    assert await found(both, "", reverse=True) == ["c", "b", "a"]
    assert await found(both, "", order="created_at") == ["b", "c", "a"]
    assert await found(both, "", order="updated_at") == ["b", "a", "c"]
    assert await found(both, "", order="updated_at", reverse=True, limit=2) == ["c", "a"]
    assert await found(both, "", offset=1, limit=1) == ["b"]
    assert await found(both, "", offset=3) == []


async def test_deleted_and_expired_entries_are_not_found(docs, database_url):
    await docs.state.delete("doc:1")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE pgmem.state SET expires_at = clock_timestamp() - interval '1 s' "
            "WHERE key = 'doc:3'"
        )
    assert await found(docs, where={"status": "open"}) == []
    assert await docs.state.keys("doc:") == ["doc:2", "doc:4", "doc:5"]


async def test_models_and_lifetimes_are_returned(both):
    class Doc(BaseModel):
        status: str

    written = await both.state.put("doc:1", Doc(status="open"), ttl=60)
    (entry,) = await both.state.search("doc:", where={"status": "open"}, model=Doc)
    assert entry == written._replace(position=None)
    await both.state.put("doc:2", 5)
    with pytest.raises(InvalidValue, match="Doc"):
        await both.state.search("doc:", model=Doc)


@pytest.mark.parametrize(
    "options",
    [
        {"where": "open"},
        {"where": {1: 2}},
        {"where": {"a": float("nan")}},
        {"order": "value"},
        {"order": "key; DROP TABLE x"},
        {"offset": -1},
        {"limit": 0},
    ],
)
async def test_what_is_not_allowed_is_refused(both, options):
    with pytest.raises(InvalidInput):
        await both.state.search("", **options)


# keys

NAMES = ["team", "team%", "team-x", "team:1", "team:1:goal", "team:1:plan", "team:2:goal", "teams"]


@pytest.fixture
async def teams(both):
    await both.state.put_many(dict.fromkeys(NAMES, 1))
    return both


@pytest.mark.parametrize(
    ("prefix", "options", "keys"),
    [
        ("", {}, NAMES),
        ("team:", {}, ["team:1", "team:1:goal", "team:1:plan", "team:2:goal"]),
        ("team", {}, NAMES),
        ("team%", {}, ["team%"]),
        ("tea_", {}, []),
        (
            "team",
            {"separator": ":"},
            ["team", "team:1", "team:1:goal", "team:1:plan", "team:2:goal"],
        ),
        ("team:1", {"separator": ":"}, ["team:1", "team:1:goal", "team:1:plan"]),
        ("team:1:", {"separator": ":"}, ["team:1:goal", "team:1:plan"]),
        ("tea", {"separator": ":"}, []),
        ("", {"separator": ":", "depth": 1}, ["team", "team%", "team-x", "teams"]),
        ("team:", {"separator": ":", "depth": 2}, ["team:1", "team:2"]),
        ("team", {"separator": ":", "depth": 2}, ["team", "team:1", "team:2"]),
        ("team", {"separator": "m:"}, ["team"]),
        ("", {"separator": "m:", "depth": 1, "limit": 2}, ["tea", "team"]),
        ("", {"after": "team:1:plan"}, ["team:2:goal", "teams"]),
        ("team:", {"separator": ":", "depth": 2, "after": "team:1"}, ["team:2"]),
        ("", {"limit": 2}, ["team", "team%"]),
    ],
)
async def test_keys_under_a_prefix(teams, prefix, options, keys):
    assert await teams.state.keys(prefix, **options) == keys


@pytest.mark.parametrize("options", [{"depth": 1}, {"separator": ""}, {"depth": 0}, {"limit": 0}])
async def test_options_of_keys_that_are_not_allowed_are_refused(both, options):
    with pytest.raises(InvalidInput):
        await both.state.keys("", **options)
