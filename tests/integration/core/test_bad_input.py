"""Every input comes back exactly, or is refused with a typed error before anything changes."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import uuid

import psycopg
import pytest
from pydantic import BaseModel

from pgmem import AsyncMemory, Event, Memory
from pgmem.core.names import VERSION_TABLE
from pgmem.errors import (
    InvalidInput,
    InvalidValue,
    NotOpen,
    PgmemError,
    SchemaError,
    Unavailable,
    ValueTooLarge,
)

deep = current = []
for _ in range(300):
    current.append([])
    current = current[0]


class Colour(enum.Enum):
    RED = "red"


HUGE = 10**400
"""Above every float."""

BAD_VALUES = [
    math.nan,
    [1, math.inf],
    {"a": {"b": -math.inf}},
    "\ud800",
    {"\udfff": 1},
    "nul \0 inside",
    {"nul\0": 1},
    (1, 2),
    {"a": (1,)},
    {1: 2},
    {None: 1},
    2**64,
    -(2**63) - 1,
    b"bytes",
    {1, 2},
    object(),
    datetime.datetime(2026, 1, 1),
    datetime.date(2026, 1, 1),
    uuid.UUID(int=1),
    decimal.Decimal("1.5"),
    Colour.RED,
    deep,
]

GOOD_VALUES = [
    None, True, False, 0, -1, 2**63, 2**64 - 1, -(2**63), 0.1, 1e300, 1e16, 5e-324, -0.0, 1e-7,
    123456789.123456789, "", "\\u0000", "\\\\u0000", "ü\U0001f600\u2028", '"', "\t\n\r\x01\x7f",
    [], {}, [[]], {"": ""}, {"b": 1, "a": {"z": None, "y": [1, 2.5, "x"]}}, "x" * 100_000,
]  # fmt: skip


class TestValues:
    @pytest.mark.parametrize("value", BAD_VALUES, ids=lambda v: type(v).__name__)
    async def test_refused_everywhere_before_anything_changes(self, both, value):
        async with both.transaction() as tx:
            for memory in (both, tx):
                for refused in (
                    memory.events.append("s", Event(type="t", payload=value)),
                    memory.events.append("s", [Event(type="t"), Event(type="t", payload=value)]),
                    memory.events.append("s", Event(type="t", metadata={"x": value})),
                    memory.state.put("k", value),
                    memory.state.create("k", value),
                    memory.state.compare_and_set("k", value, expected_version=1),
                    memory.state.update("k", lambda _: value),
                    memory.state.put("k", 1, event=Event(type="t", payload=value)),
                    memory.folds.save("n", value, position=1),
                ):
                    with pytest.raises(InvalidValue) as error:
                        await refused
                    assert isinstance(error.value, ValueError)
        assert await both.events.count() == 0
        assert await both.state.list() == []

    @pytest.mark.parametrize("value", GOOD_VALUES, ids=lambda v: repr(v)[:20])
    async def test_comes_back_exactly(self, both, value):
        await both.events.append("s", Event(type="t", payload=value))
        await both.events.append("s", [Event(type="t", payload=value)])
        await both.state.put("k", value)
        one, batched, state = await both.events.read()
        entry = await both.state.get("k")
        claim = await both.dedupe.claim("w")
        await both.dedupe.complete(claim, value)
        result = (await both.dedupe.claim("w")).result
        found = (one.payload, batched.payload, state.payload, entry.value, result)
        assert [repr(each) for each in found] == [repr(value)] * 5

    def test_message_says_where_and_shows_no_value(self, memory):
        secret = "4111-1111-1111-1111"
        for value in ({"cards": [{"number": secret, "bad": math.nan}]}, {"x": (secret,)}):
            with pytest.raises(InvalidValue) as error:
                memory.state.put("k", value)
            assert secret not in str(error.value)
            assert "$." in str(error.value)
        with pytest.raises(InvalidValue) as error:
            memory.state.put("k", {"cards": [{"bad": math.nan}]})
        assert "$.cards[0].bad" in str(error.value)

    async def test_limit_counts_bytes_of_json(self, form):
        async with form.memory(max_payload_bytes=10) as memory:
            await memory.state.put("k", "12345678")
            for value in ("123456789", "üüüüü", list(range(9))):
                with pytest.raises(ValueTooLarge) as error:
                    await memory.state.put("k", value)
                assert error.value.size > error.value.limit == 10
            for refused in (
                memory.events.append("s", Event(type="t", payload="123456789")),
                memory.events.append("s", Event(type="t", metadata={"k": "123456789"})),
                memory.dedupe.complete(await memory.dedupe.claim("k"), "123456789"),
            ):
                with pytest.raises(ValueTooLarge):
                    await refused
        async with form.memory() as memory:
            await memory.state.put("k", "x" * (1024 * 1024 - 2))
            with pytest.raises(ValueTooLarge):
                await memory.state.put("k", "x" * (1024 * 1024 - 1))

    async def test_pydantic_model_with_nan_is_refused(self, both):
        class Rate(BaseModel):
            rate: float

        with pytest.raises(InvalidValue):
            await both.state.put("k", Rate(rate=math.nan))


BAD_NAMES = ["", "x" * 513, "ü" * 257, "nul\0", "\ud800", 5, None, b"bytes"]


class TestNames:
    @pytest.mark.parametrize("name", BAD_NAMES, ids=lambda n: repr(n)[:12])
    async def test_refused_everywhere(self, both, name):
        event = Event(type="t")
        calls = [
            lambda: both.state.get(name),
            lambda: both.state.get_many([name]),
            lambda: both.state.put(name, 1),
            lambda: both.state.create(name, 1),
            lambda: both.state.compare_and_set(name, 1, expected_version=1),
            lambda: both.state.update(name, lambda value: 1),
            lambda: both.state.delete(name),
            lambda: both.state.touch(name, ttl=5),
            lambda: both.state.history(name),
            lambda: both.events.append(name, event),
            lambda: both.events.append(name, [event]),
            lambda: both.events.version(name * 2 if name else name),
            lambda: both.dedupe.run_once(name, lambda: 1),
            lambda: both.dedupe.claim(name),
            lambda: both.folds.save(name, 1, position=1),
            lambda: both.folds.load(name),
        ]
        if isinstance(name, str):
            calls += [
                lambda: both.events.append("s", Event(type=name)),
                lambda: both.events.append("s", Event(type="t", agent_id=name)),
                lambda: both.events.append("s", event, idempotency_key=name),
                lambda: both.events.read(name * 2),
                lambda: both.events.read(type=name),
                lambda: both.state.put("k", 1, stream=name),
                lambda: both.state.snapshots.take(name),
            ]
        if name != "":
            calls += [lambda: both.state.list(name), lambda: both.state.list(after=name)]
        for call in calls:
            with pytest.raises(InvalidInput):
                await call()
        assert await both.events.count() == 0

    @pytest.mark.parametrize("name", ["x", "x" * 512, "ü" * 256, " ", "a b\n'\"%;--", "\U0001f600"])
    async def test_every_other_text_is_a_name(self, both, name):
        await both.events.append(name, Event(type=name, agent_id=name), idempotency_key=name)
        await both.state.put(name, name)
        await both.dedupe.run_once(name, lambda: name)
        (event,) = await both.events.read(name)
        assert (event.stream, event.type, event.agent_id) == (name, name, name)
        assert (await both.state.get(name)).key == name
        assert (await both.state.list(name))[0].key == name
        assert (await both.events.read(f"state:{name}"))[0].change.key == name


class TestOptions:
    @pytest.mark.parametrize("number", [-1, True, 1.5, "1", 2**63, HUGE])
    async def test_numbers(self, both, number):
        calls = [
            lambda: both.events.append("s", Event(type="t"), expected_version=number),
            lambda: both.state.compare_and_set("k", 1, expected_version=number),
            lambda: both.state.delete("k", expected_version=number),
            lambda: both.events.read(after=number),
            lambda: both.events.read(until=number),
            lambda: both.events.read(limit=number),
            lambda: both.state.list(limit=number),
            lambda: both.state.search(offset=number),
            lambda: both.state.keys(depth=number, separator=":"),
            lambda: both.folds.save("n", 1, position=number),
            lambda: both.folds.load("n", version=number),
            lambda: both.state.snapshots.restore(number),
        ]
        if number not in (2**63, HUGE):  # Any number of retries is allowed.
            calls.append(lambda: both.state.update("k", lambda value: 1, max_retries=number))
        for call in calls:
            with pytest.raises(InvalidInput):
                await call()
        assert await both.events.count() == 0
        assert await both.state.list() == []

    @pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, "5", True, 1e12, HUGE, -HUGE])
    async def test_durations(self, both, seconds):
        for call in (
            lambda: both.state.put("k", 1, ttl=seconds),
            lambda: both.state.compare_and_set("k", 1, expected_version=0, ttl=seconds),
            lambda: both.state.update("k", lambda value: 1, ttl=seconds),
            lambda: both.state.put_many({"k": 1}, ttl=seconds),
            lambda: both.state.touch("k", ttl=seconds),
            lambda: both.events.append("s", Event(type="t"), idempotency_key="k", ttl=seconds),
            lambda: both.dedupe.claim("k", lease=seconds),
            lambda: both.dedupe.run_once("k", lambda: 1, lease=seconds),
            lambda: both.dedupe.run_once("k", lambda: 1, ttl=seconds),
        ):
            with pytest.raises(InvalidInput):
                await call()
        assert await both.dedupe.run_once("k", lambda: 2) == ("processed", 2)

    async def test_wrong_types(self, both):
        for call in (
            lambda: both.events.append("s", "event"),
            lambda: both.events.append("s", {"type": "t"}),
            lambda: both.events.append("s", []),
            lambda: both.events.append("s", ["event"]),
            lambda: both.events.append("s", Event),
            lambda: both.state.get_many("key"),
        ):
            with pytest.raises(InvalidInput):
                await call()

    @pytest.mark.parametrize("model", [int, "x", 5, list[int], int | str, lambda value: value])
    async def test_models(self, both, model):
        """Refuse what is no class of pydantic's before work is done."""
        done = []
        for call in (
            lambda: both.events.read("s", model=model),
            lambda: both.events.get(1, model=model),
            lambda: both.state.get("k", model=model),
            lambda: both.state.get_many(["k"], model=model),
            lambda: both.state.list(model=model),
            lambda: both.state.search(model=model),
            lambda: both.state.history("k", model=model),
            lambda: both.state.update("k", done.append, model=model),
            lambda: both.folds.load("n", model=model),
            lambda: both.dedupe.run_once("k", lambda: done.append(1), model=model),
        ):
            with pytest.raises(InvalidInput, match="BaseModel"):
                await call()
        assert done == []

    async def test_kinds_of_arguments(self, both):
        for call in (
            lambda: both.folds.fold("fold"),
            lambda: both.limits.acquire("l", rate=10**400, burst=1),
            lambda: both.events.append_all(5),
            lambda: both.events.read("s", until="5"),
            lambda: both.events.read("s", on_invalid=10**5000),
            lambda: both.state.get_many(5),
            lambda: both.state.search(order=[]),
        ):
            with pytest.raises(InvalidInput):
                await call()

    def test_events(self):
        for fields in ({}, {"type": 5}, {"type": "t", "metadata": []}, {"type": "t", "x": 1}):
            with pytest.raises(InvalidValue):
                Event(**fields)

        class Mine(Event, type="mine"):
            n: int

        with pytest.raises(InvalidValue, match=r"type='mine'|have the type"):
            Mine(n=1, type="other")
        with pytest.raises(InvalidValue, match="do one of the two"):

            class Twice(Event):
                payload: dict
                n: int


class TestConstruction:
    @pytest.mark.parametrize("kind", [Memory, AsyncMemory])
    @pytest.mark.parametrize(
        "options",
        [
            {"schema": "not an identifier"},
            {"schema": "x; DROP TABLE"},
            {"schema": ""},
            {"schema": "pg_catalog"},
            {"durability": "maybe"},
            {"pool": 0},
            {"pool": (5, 2)},
            {"pool": "many"},
            {"timeout": 0},
            {"agent_id": ""},
            {"events": [Event]},
            {"events": ["x"]},
            {"max_payload_bytes": 0},
            {"default": "str"},
        ],
    )
    def test_bad_options(self, kind, options):
        with pytest.raises(InvalidInput):
            kind("postgresql://localhost/x", **options)

    @pytest.mark.parametrize("url", ["mysql://x/y", "http://x", "nonsense", ""])
    def test_bad_urls(self, url):
        with pytest.raises(InvalidInput):
            Memory(url)

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://user:s3cr3t@127.0.0.1:9/db",
            "host=127.0.0.1 port=9 user=user password=s3cr3t dbname=db",
            "host=/nonexistent user=user password=s3cr3t",
        ],
    )
    async def test_unreachable_server_is_told_in_bounded_time_without_the_password(
        self, form, url, caplog
    ):
        with pytest.raises(Unavailable) as error:
            async with form.memory(url, timeout=0.3):
                pass
        assert "s3cr3t" not in str(error.value) + caplog.text + repr(Memory(url))
        assert error.value.__cause__ is None

    async def test_database_without_migrations(self, form, make_database):
        with pytest.raises(SchemaError, match="pgmem migrate up"):
            async with form.memory(make_database()):
                pass
        with pytest.raises(SchemaError, match="other_schema"):
            async with form.memory(schema="other_schema"):
                pass

    @pytest.mark.parametrize(("revision", "error"), [("0000", SchemaError), ("9999", SchemaError)])
    async def test_schema_of_another_version(self, form, revision, error):
        with psycopg.connect(form.url) as connection:
            connection.execute(f"UPDATE pgmem.{VERSION_TABLE} SET version_num = %s", [revision])
        with pytest.raises(error, match=revision):
            async with form.memory():
                pass

    async def test_not_open(self, database_url):
        memory = Memory(database_url)
        with pytest.raises(NotOpen, match="open"):
            memory.state.get("k")
        memory.open()
        with pytest.raises(NotOpen, match="twice"):
            memory.open()
        memory.close()
        memory.close()
        with pytest.raises(NotOpen):
            memory.state.get("k")
        unopened = AsyncMemory(database_url)
        with pytest.raises(NotOpen):
            await unopened.state.get("k")

    def test_closed_and_opened_again(self, database_url):
        memory = Memory(database_url)
        for version in (1, 2):
            with memory:
                assert memory.state.put("k", 1).version == version

    def test_errors_are_one_tree(self):
        from pgmem import errors

        classes = [c for c in vars(errors).values() if isinstance(c, type)]
        found = [c for c in classes if issubclass(c, Exception)]
        assert all(issubclass(c, PgmemError) for c in found)
        for c in found:
            assert c.__name__ in errors.__doc__, "the drawn tree lacks it"
